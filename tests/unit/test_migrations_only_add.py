"""An older version serves beside a newer one's schema: migrations add, and take away what nobody has read for a while.

One that takes something away says `unread_since = "00NN"`: the revision of the first version that did not read it.
"""

import ast
import re
from pathlib import Path

import pytest

import ledger.migrations.versions

FOLDER = Path(ledger.migrations.versions.__file__).parent
MIGRATIONS = sorted(FOLDER.glob("[0-9]*.py"))
TAKES_AWAY = {
    "drops a thing": r"\bDROP\s+(TABLE|VIEW|MATERIALIZED|TYPE|FUNCTION|SCHEMA|SEQUENCE)\b",
    "drops a column": (
        r"\bDROP\s+(COLUMN\b|(?!INDEX|CONSTRAINT|POLICY|DEFAULT|NOT|TRIGGER|EXPRESSION|IDENTITY)"
        r"(IF\s+EXISTS\s+)?\w+\s*([,;]|\Z))"
    ),
    "renames": r"\bRENAME\b",
    "changes a type": r"\bALTER\s+(COLUMN\s+)?\w+\s+(SET\s+DATA\s+)?TYPE\b",
    "makes a column obligatory": r"\bSET\s+NOT\s+NULL\b",
    "drops a default": r"\bDROP\s+DEFAULT\b",
    "adds an obligatory column without a default": (
        r"\bADD\s+(COLUMN\s+)?(IF\s+NOT\s+EXISTS\s+)?(?!CONSTRAINT)\w+\s+(?:(?!\bDEFAULT\b|\bGENERATED\b|;|,\s*ADD\b).)*"
        r"\bNOT\s+NULL\b(?:(?!\bDEFAULT\b|\bGENERATED\b|;|,\s*ADD\b).)*(;|,\s*ADD\b|\Z)"
    ),
    "truncates": r"\bTRUNCATE\s+(TABLE\s+)?\w+\s*(;|\Z)",
}
CALLS = {"drop_table", "drop_column", "rename_table", "alter_column"}


def takes_away(source: str) -> list[str]:
    """What of a migration an older version might miss."""
    tree = ast.parse(source)
    sql = [
        re.sub(r"--[^\n]*", "", node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = [what for what, form in TAKES_AWAY.items() for each in sql if re.search(form, each, re.I | re.S)]
    return sorted({*found, *CALLS & called})


def unread_since(source: str) -> str | None:
    found = re.search(r'^unread_since = "(\d{4})"$', source, re.M)
    return found[1] if found else None


def test_there_are_migrations_and_each_has_the_number_of_its_file() -> None:
    assert len(MIGRATIONS) >= 13
    for path in MIGRATIONS:
        assert f'revision = "{path.name[:4]}"' in path.read_text(), path.name


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem[:4])
def test_a_migration_takes_nothing_away_that_an_older_version_reads(path: Path) -> None:
    source = path.read_text()
    found, since = takes_away(source), unread_since(source)
    assert found == [] or since is not None, f'{path.name} {found}: say unread_since = "00NN", or only add'
    assert since is None or since < path.name[:4], "the version that reads it no more comes before"


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE grants;", "drop table if exists grants", "ALTER TABLE grants DROP COLUMN reason;",
        "ALTER TABLE grants DROP reason;", "ALTER TABLE grants RENAME COLUMN reason TO why",
        "ALTER TABLE grants RENAME TO gifts", "ALTER TABLE grants ALTER COLUMN amount TYPE numeric",
        "ALTER TABLE grants ALTER amount SET DATA TYPE numeric", "ALTER TABLE grants ALTER COLUMN reason SET NOT NULL",
        "ALTER TABLE grants ADD COLUMN more text NOT NULL", "ALTER TABLE grants ADD more text NOT NULL, ADD b text",
        "ALTER TABLE grants ADD COLUMN a text,\n ADD COLUMN more text NOT NULL;", "TRUNCATE grants",
        "ALTER TABLE grants ALTER COLUMN at DROP DEFAULT",
    ],
)  # fmt: skip
def test_what_takes_away_is_found(statement: str) -> None:
    assert takes_away(f'def upgrade():\n    op.execute("""{statement}""")\n') != []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (id bigint NOT NULL, name text NOT NULL);", "DROP INDEX grants_of;",
        "ALTER TABLE grants ADD COLUMN more text", "ALTER TABLE grants ADD COLUMN more int NOT NULL DEFAULT 0;",
        "ALTER TABLE grants ADD COLUMN more int DEFAULT 0 NOT NULL, ADD COLUMN b text;",
        "ALTER TABLE grants ALTER COLUMN reason DROP NOT NULL;", "ALTER TABLE grants DROP CONSTRAINT c;",
        "-- DROP TABLE grants;\nSELECT 1", "GRANT SELECT, UPDATE, TRUNCATE ON a TO b; REVOKE TRUNCATE ON a FROM b;",
        "CREATE TRIGGER t BEFORE TRUNCATE ON entries EXECUTE FUNCTION f();",
    ],
)  # fmt: skip
def test_what_adds_is_let_through(statement: str) -> None:
    assert takes_away(f'def upgrade():\n    op.execute("""{statement}""")\n') == []


def test_a_call_that_takes_away_is_found() -> None:
    assert takes_away('op.drop_column("grants", "reason")') == ["drop_column"]
