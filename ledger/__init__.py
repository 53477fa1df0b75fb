"""Postgres: tables, migrations, entries, balances, catalogs, keys."""
