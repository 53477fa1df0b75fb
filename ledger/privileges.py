"""Whether the application's login may do no more than it needs, and each tenant sees its own rows alone."""

from sqlalchemy import Connection, text

USE_ANOTHER = "use a login that is only a member of quotagate_app (`quotagate migrate` makes it)"

_login = text(
    """
    SELECT current_user AS role,
           pg_has_role(current_user, c.relowner, 'MEMBER') AS owns,
           r.rolsuper OR r.rolbypassrls AS bypasses,
           r.rolcreaterole AS makes_roles,
           has_schema_privilege(c.relnamespace, 'CREATE') AS makes_tables,
           EXISTS (
               SELECT FROM pg_db_role_setting AS s, unnest(s.setconfig) AS setting
               WHERE setting LIKE 'quotagate.tenant=_%'
                 AND s.setrole IN (0, r.oid)
                 AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
           ) AS has_scope
    FROM pg_class c, pg_roles r
    WHERE c.oid = to_regclass('entries') AND r.rolname = current_user
    """
)

# What the login may do to tables whose rows are kept for ever, or to some of their columns, of which a privilege of the
# table says nothing. Months are reached through `entries` alone.
_changeable = text(
    """
    SELECT c.relname
    FROM pg_class c
    WHERE c.relname IN ('entries', 'links', 'incidents', 'catalogs', 'sealed_periods', 'archives', 'carried',
                        'acts')
      AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('entries'))
      AND (has_table_privilege(c.oid, 'DELETE, TRUNCATE, TRIGGER') OR has_any_column_privilege(c.oid, 'UPDATE'))
    UNION ALL
    SELECT c.relname
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass('entries')
      AND (has_table_privilege(c.oid, 'DELETE, TRUNCATE, TRIGGER')
           OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE'))
    ORDER BY 1
    """
)

# Tables with tenants, months among them, and those that tell of all tenants: each with the one policy that the
# migrations gave it. A second one would let more through.
_unguarded = text(
    """
    SELECT c.relname
    FROM pg_class c
    LEFT JOIN LATERAL (
        SELECT count(*) AS policies,
               bool_and(p.polcmd = '*' AND p.polpermissive AND p.polroles = '{0}' AND p.polwithcheck IS NULL
                   AND pg_get_expr(p.polqual, p.polrelid) LIKE '%current_setting(''quotagate.tenant''%'
               ) AS are_ours
        FROM pg_policy p WHERE p.polrelid = c.oid
    ) AS found ON true
    WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('entries'))
      AND c.relkind IN ('r', 'p')
      AND (c.relname IN ('incidents', 'reconciliations')
           OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant'))
      AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND found.policies = 1 AND found.are_ours)
    ORDER BY 1
    """
)


def complaints(connection: Connection) -> list[str]:
    """What is wrong, a sentence each. The schema must be this version's."""
    login = connection.execute(_login).mappings().one()
    role = login["role"]
    changeable = connection.execute(_changeable).scalars().all()
    found = []
    if login["owns"] or login["bypasses"] or "entries" in changeable:
        found.append(
            f"the role {role} owns or may change the ledger's entries, and the application must not be "
            f"able to: {USE_ANOTHER}"
        )
    else:
        found += [
            f"the role {role} may reach into the table {name}, and change what is kept for ever or see what is not a "
            f"tenant's own: as the owner, REVOKE ALL ON {name} from whoever was granted it"
            if name.startswith("entries_")
            else f"the role {role} may change the table {name}, which only grows: "
            f"as the owner, REVOKE UPDATE, DELETE, TRUNCATE, TRIGGER ON {name} from whoever was granted them"
            for name in changeable
        ]
        if login["makes_roles"]:
            found.append(f"the role {role} may make roles (CREATEROLE), and so become another: {USE_ANOTHER}")
        if login["makes_tables"]:
            found.append(
                f"the role {role} may make tables and functions beside the ledger's: as the schema's owner, "
                "REVOKE CREATE ON SCHEMA public FROM PUBLIC, and from whoever else was granted it"
            )
    if login["has_scope"]:
        found.append(
            f"the role {role} begins every session in the scope of a tenant: "
            f"ALTER ROLE {role} RESET quotagate.tenant, and the same for the database"
        )
    found += [
        f"the table {name} does not keep tenants apart as `quotagate migrate` made it to (row-level security, forced, "
        "with one policy): as the owner, give it back what docs/roles.md says"
        for name in connection.execute(_unguarded).scalars()
    ]
    return found
