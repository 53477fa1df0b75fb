"""The house rules, as far as a program can tell whether they are kept."""

import ast
import inspect
import re
import tomllib
import warnings
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

import lua
from gateway import openapi, problems
from gateway.app import Gateway, hot_routes, routed
from quota import errors
from quota.settings import Settings, variable

ROOT = Path(__file__).parent.parent
ROOMS = ("quotagate", "gateway", "workers", "ledger", "quota", "lua")
PRODUCT = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PYTHON = sorted([*PRODUCT, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
SCRIPTS = sorted((ROOT / "lua").glob("*.lua"))
RULES = sorted((ROOT / "lua/rules").glob("*.lua"))
LUA_FILES = [*SCRIPTS, *RULES]
MAX_LINES = 500
ASKED_LINES = 300
MAX_LONG_FILES = 10
"""Beyond so many, the rule is no longer kept by exception."""
MAX_FUNCTION_LINES = 70
PROMISES = [f"P{number}" for number in range(1, 13)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


class TestLengths:
    def test_no_file_has_more_than_500_lines(self) -> None:
        assert {name_of(path): lines_of(path) for path in [*PYTHON, *LUA_FILES] if lines_of(path) > MAX_LINES} == {}

    def test_few_files_have_more_than_300_lines_and_none_of_the_product(self) -> None:
        long = [path for path in [*PYTHON, *LUA_FILES] if lines_of(path) > ASKED_LINES]
        assert [name_of(path) for path in long if path in PRODUCT or path in LUA_FILES] == []
        assert len(long) <= MAX_LONG_FILES, [name_of(path) for path in long]

    def test_every_function_has_fewer_than_70_lines(self) -> None:
        long = {}
        for path in PYTHON:
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length >= MAX_FUNCTION_LINES:
                        long[f"{name_of(path)}:{node.name}"] = length
        assert long == {}


class TestNames:
    def test_no_file_is_a_drawer_for_everything(self) -> None:
        drawers = {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc"}
        assert [name_of(path) for path in PYTHON if drawers.intersection(path.stem.split("_"))] == []

    def test_every_module_of_the_product_says_what_it_is(self) -> None:
        empty = {ROOT / "ledger/migrations/__init__.py", ROOT / "ledger/migrations/versions/__init__.py"}
        assert [name_of(path) for path in PRODUCT if path not in empty and not ast.get_docstring(tree_of(path))] == []

    def test_every_decision_is_named_and_has_its_three_parts(self) -> None:
        pages = sorted((ROOT / "docs/decisions").iterdir())
        assert pages
        for number, page in enumerate(pages, start=1):
            assert re.fullmatch(rf"{number:03}(-[a-z0-9]+)+\.md", page.name), page.name
            text = page.read_text(encoding="utf-8")
            places = [text.find(part) for part in ("Context", "Decision", "Consequence")]
            assert -1 not in places and places == sorted(places), page.name


class Header:
    """What the comment at the head of a script says of it, and what its code says."""

    def __init__(self, path: Path) -> None:
        self.lines = path.read_text(encoding="utf-8").splitlines()
        end = next(place for place, line in enumerate(self.lines[1:], 1) if not line.startswith("--"))
        self.comment = [line.removeprefix("--").strip() for line in self.lines[1:end]]
        self.code = "\n".join(self.lines[end:])

    def part(self, name: str) -> str:
        """What follows `name:` up to the next part; a word that says what is not a name is still in it."""
        begun = [place for place, line in enumerate(self.comment) if line.startswith(f"{name}:")]
        assert len(begun) == 1, f"the header has {len(begun)} parts {name}"
        rest = self.comment[begun[0] :]
        end = next((n for n, line in enumerate(rest[1:], 1) if re.match(r"(KEYS|ARGV|Reply)[:,]", line)), len(rest))
        return " ".join(rest[:end]).removeprefix(f"{name}:").strip()

    def names(self, part: str) -> list[str]:
        """The names that a part lists, up to its first remark."""
        listed = re.split(r", then | `", self.part(part))[0]
        return [name.strip() for name in listed.split(",")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
class TestScripts:
    def test_it_is_refused_while_memory_is_full_and_says_what_it_does(self, path: Path) -> None:
        """But for the one that only gives memory back."""
        header = Header(path)
        assert header.lines[0] == ("#!lua flags=allow-oom" if path.stem == "trim" else "#!lua")
        assert header.comment[0].startswith(f"{path.stem}: ")

    def test_its_header_lists_keys_arguments_and_replies(self, path: Path) -> None:
        header = Header(path)
        text = "\n".join(header.comment)
        for part in ("KEYS", "ARGV", "Reply"):
            assert re.search(rf"^{part}[:,] ?\S", text, re.MULTILINE), part
        for reply in re.findall(r"return '([a-z_]+)'", header.code):
            assert re.search(rf"\b{reply}\b", header.part("Reply")), reply

    def test_its_names_are_those_of_its_header(self, path: Path) -> None:
        header = Header(path)
        if path.stem == "consume":
            assert listed(header, "KEYS") == ["head", "journal", "record", "refunds", "account"]
            for part in ("KEYS", "ARGV"):
                assert taken_from(header, part) == set(listed(header, part))
            return
        keys = re.findall(r"^local ([a-z_, ]+) = KEYS\[1\]((?:, KEYS\[\d+\])*)$", header.code, re.MULTILINE)
        assert len(keys) == 1
        names = keys[0][0].split(", ")
        assert [f"{name}_key" for name in header.names("KEYS")] == names
        assert keys[0][1] == "".join(f", KEYS[{place}]" for place in range(2, len(names) + 1))
        assert [variable_of(name) for name in header.names("ARGV")] == arguments_of(header)

    def test_keys_and_arguments_are_indexed_on_the_first_lines_alone(self, path: Path) -> None:
        header = Header(path)
        first = re.compile(r"^local [a-z_, \n]+? = (KEYS\[1\][^\n]*|ARGV\[1\][^\n]*|unpack\(ARGV\))$", re.MULTILINE)
        rest = first.sub("", header.code)
        if path.stem == "publish":  # its accounts are any number
            before = rest
            rest = rest.replace("KEYS[place]", "")
            assert before.count("KEYS[place]") == 2
        if path.stem == "provision":  # its accounts are any number
            rest = rest.replace("KEYS[place], cjson.decode(ARGV[place])", "")
        if path.stem == "consume":  # its requests are any number, and it walks through both lists
            walked = r"KEYS\[key_at \+ (\d|place)\]|ARGV\[argument_at \+ \d\]"
            rest = re.sub(rf"{walked}|ARGV\[[123]\]|local KEYS, ARGV = KEYS, ARGV", "", rest)
        rest = rest.replace("#KEYS", "")
        assert re.findall(r"\b(?:KEYS|ARGV)\b", re.sub(r"--.*", "", rest)) == []
        code = [line for line in header.code.splitlines() if line.strip()]
        assert path.stem == "consume" or "KEYS[1]" in code[0]

    def test_it_neither_looks_for_keys_nor_reads_a_clock_of_its_own(self, path: Path) -> None:
        assert not re.search(rf"{SEARCHES}|{OTHER_CLOCKS}|'TIME'", Header(path).code)

    def test_what_it_includes_is_there_and_is_told_the_time_once(self, path: Path) -> None:
        whole = lua.source(path.stem)
        assert "@include" not in whole
        assert whole.count("'TIME'") == (1 if path.stem in {"consume", "provision", "roll", "correct"} else 0)


SEARCHES = r"'(KEYS|SCAN|HGETALL|EVAL|RANDOMKEY)'"
OTHER_CLOCKS = r"os\.(time|clock)|math\.random"


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
class TestRules:
    def test_it_says_what_it_is_and_is_no_script_by_itself(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("-- ")
        assert not any(line.startswith("#!") or "@include" in line for line in lines)

    def test_it_is_handed_what_it_needs_and_reaches_for_no_key_or_argument(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(KEYS|ARGV)\b", text)
        assert not re.search(OTHER_CLOCKS, text)
        # The whole of an account is looked through for its holds alone; they are bounded.
        searches = re.findall(SEARCHES + r", [\w.]+", text)
        assert len(searches) == (1 if path.stem == "account" else 0)
        assert path.stem != "account" or "'HGETALL', account.key)" in text
        assert ("'TIME'" in text) == (path.stem == "clock")

    def test_some_script_includes_it(self, path: Path) -> None:
        assert any(f"-- @include rules/{path.stem}\n" in script.read_text(encoding="utf-8") for script in SCRIPTS)


def listed(header: Header, part: str) -> list[str]:
    """The names of consume's header: it takes many requests, and each has its own."""
    text = re.sub(r"\([^)]*\)", "", " ".join(header.comment).split(f"{part}", 1)[1])
    text = re.split(r"ARGV:|Reply:|`", text)[0]
    grammar = {"then", "an", "for", "each", "charge", "request"}
    return [name for name in re.findall(r"[a-z_]+", text) if name not in grammar]


def taken_from(header: Header, part: str) -> set[str]:
    """The names that consume gives to what it takes from KEYS or ARGV, without the `_key` or `_text` behind them."""
    names = set()
    for line in header.code.replace("{ ", "\n").replace(" }", "\n").splitlines():
        is_table = re.match(r"\w+ = ", line.strip())
        for piece in re.split(r", (?=\w+ = )", line.strip().rstrip(",")) if is_table else [line.strip()]:
            left, is_one, right = piece.removeprefix("local ").partition(" = ")
            if not is_one or part not in right or left == "KEYS, ARGV":
                continue
            left, right = left.rpartition(" then ")[2], right.removesuffix(" end")
            pairs = zip(left.split(", "), right.split(", "), strict=False)
            names |= {name.split(".")[-1] for name, value in pairs if part in value}
    plain = {re.sub(r"_(key|text)$", "", name) for name in names}
    return {"account" if name == "key" else name for name in plain}


def variable_of(name: str) -> str:
    return {"until": "till"}.get(name, name)  # a word of Lua's own


def arguments_of(header: Header) -> list[str]:
    """The names that the arguments are given, whichever way."""
    found = re.findall(r"^local ([a-z_, \n]+?) = (?:ARGV\[1\]|unpack\(ARGV\))", header.code, re.MULTILINE)
    assert len(found) == 1
    return [name.strip() for name in found[0].split(",")]


STATEMENT = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|ALTER|DROP|TRUNCATE|GRANT|REVOKE|COPY|SET)\s", re.I
)
LUA = re.compile(r"redis\.p?call|#!lua|\breturn redis\b")


def built(node: ast.AST) -> tuple[str, bool]:
    """The text that a string begins with, and whether something is put into it."""
    match node:
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *rest]):
            return text, any(isinstance(each, ast.FormattedValue) for each in rest)
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod() | ast.Add()):
            return text, True
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format" | "format_map")):
            return text, True
    return "", False


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_neither_sql_nor_lua_is_built_from_strings(path: Path) -> None:
    found = []
    for node in ast.walk(tree_of(path)):
        text, is_built = built(node)
        if is_built and ((STATEMENT.match(text) and text.lstrip()[:3].isupper()) or LUA.search(text)):
            found.append(f"{node.lineno}: {text[:60]!r}")  # type: ignore[attr-defined]
    assert found == []


def rows(page: Path) -> list[list[str]]:
    """The cells of every table row of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    named = [found[0] for row in rows(ROOT / "docs/settings.md") if (found := re.findall(r"QUOTAGATE_[A-Z_]+", row[0]))]
    assert sorted(named) == sorted(variable(each.name) for each in fields(Settings))


def test_the_default_of_a_setting_is_the_one_that_is_documented() -> None:
    said = {row[0].strip("`"): row[1].strip("`") for row in rows(ROOT / "docs/settings.md")}
    for each in fields(Settings):
        if each.default != "":
            assert said[variable(each.name)] == str(each.default), each.name


def error_classes() -> dict[str, type[errors.QuotagateError]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in found if issubclass(kind, errors.QuotagateError)}


def test_every_error_has_a_status_and_a_code_that_no_other_has() -> None:
    """One that names none is to callers what its parent is."""
    codes = [kind.code for kind in error_classes().values() if "code" in vars(kind)]
    assert sorted(codes) == sorted(set(codes))
    assert set(codes) == set(problems.STATUS_OF_CODE)


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    branch: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│├└─ ]*)([A-Z]\w+)(?:\s{2,}\S.*)?$", line)
        if found and (found[1] or line == "QuotagateError"):
            depth = len(found[1]) // 4
            branch = [*branch[:depth], found[2]]
            drawn[found[2]] = branch[depth - 1] if depth else "Exception"
    assert drawn == {name: kind.__base__.__name__ for name, kind in error_classes().items() if kind.__base__}


def gateway() -> Gateway:
    """Nothing is connected."""
    settings = Settings(
        redis_url="redis://127.0.0.1:1/0",
        database_url="postgresql+psycopg://nobody:nothing@127.0.0.1:1/none",
        key_pepper="12345678",
    )
    return Gateway(settings)


def composed() -> Litestar:
    parts: Any = None
    return routed(gateway(), parts)


def test_the_application_is_composed_without_a_warning() -> None:
    composed()


@pytest.fixture(scope="module")
def app() -> Litestar:
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        return composed()


def test_every_route_stands_in_the_openapi_document(app: Litestar) -> None:
    document = openapi.complete(app.openapi_schema.to_schema())
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    served: set[tuple[str, str]] = set()
    for route in app.routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        if isinstance(route, HTTPRoute):
            served |= {(path, method) for method in route.methods if method not in {"OPTIONS", "HEAD"}}
    parts: Any = SimpleNamespace(admission=None, outage=None, lookups=None)
    served |= {(route.template, "POST") for route in hot_routes(gateway(), parts)}
    assert ("/v1/catalog", "PUT") in served
    assert {each for each in served if not each[0].startswith("/schema")} == described


def test_every_route_of_the_document_says_what_a_problem_looks_like(app: Litestar) -> None:
    document = openapi.complete(app.openapi_schema.to_schema())
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        contents = [each.get("content", {}) for each in operation["responses"].values()]
        assert any("application/problem+json" in content for content in contents), operation["operationId"]


def test_every_reference_of_the_document_leads_somewhere(app: Litestar) -> None:
    document = openapi.complete(app.openapi_schema.to_schema())
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(re.findall(r"'\$ref': '([^']+)'", str(document))) <= known


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=;~! ]", each, maxsplit=1)[0].lower() for each in wanted}
    reasons = {row[0].strip("`").lower(): row[1] for row in rows(ROOT / "CONTRIBUTING.md") if len(row) == 2}
    assert names - set(reasons) == set()
    assert set(reasons) - names == {"package", "---"}
    assert [name for name in names if len(reasons[name]) < 5] == []


def test_every_promise_is_linked_to_a_test_that_exists_or_says_not_yet() -> None:
    promised = {row[0]: row for row in rows(ROOT / "README.md") if re.fullmatch(r"P\d+", row[0])}
    assert list(promised) == PROMISES
    for promise, row in promised.items():
        tests = re.findall(r"tests/[\w/]+\.py", row[-1])
        assert tests or "not yet" in row[-1], promise
        assert [each for each in tests if not (ROOT / each).is_file()] == [], promise


def test_every_known_trap_is_linked_to_tests_that_exist() -> None:
    listed_traps = [row for row in rows(ROOT / "docs/traps.md") if row[0] not in {"trap", "---"}]
    assert len(listed_traps) >= 22
    for trap, report, tests in listed_traps:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
        assert named and report, trap
        assert f"{len(named)}" == f"{tests.count('`') // 2}", trap
        for file, name in named:
            found = [node for node in ast.walk(tree_of(ROOT / file)) if getattr(node, "name", "") == name]
            assert len(found) == 1, f"{trap}: {name} is not in {file}"


def test_every_file_of_the_product_has_its_place_in_the_architecture() -> None:
    """Migrations say themselves what they are."""
    found = rows(ROOT / "ARCHITECTURE.md")
    placed, room = [], ""
    for first, _, files in found[found.index(["room", "subject", "files"]) + 2 : found.index(["key", "type", "holds"])]:
        room = first.strip("`") or room
        placed += [f"{room}/{name}" for name in re.findall(r"`([\w/]+)`", files)]
    plain = [path for path in PRODUCT if "migrations" not in path.parts and not path.stem.startswith("__")]
    there = [name_of(path.with_suffix("")) for path in [*plain, *LUA_FILES]]
    assert sorted(placed) == sorted(there)


def test_what_the_documents_name_is_there() -> None:
    first = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    pages = [*first, *(ROOT / "docs").rglob("*.md")]
    folders = "|".join([*ROOMS, "tests", "docs", "examples", "bench"])
    missing = {}
    for page in pages:
        for name in re.findall(rf"`((?:{folders})/[\w./]+)`", page.read_text()):
            if not (ROOT / name).exists():
                missing[name] = name_of(page)
    assert missing == {}
