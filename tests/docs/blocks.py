"""The code blocks of a page, in their order, and the marks above them.

A mark is an HTML comment on the lines above a block, so that whoever edits the page sees it:

    <!-- not run: REASON -->     the block is left alone
    <!-- file: NAME -->          the reader saves the block as NAME; where examples/NAME is there, it is the same text

and anywhere in a page:

    <!-- own system -->          the page counts what is in the ledger, so it has a `quotagate up` of its own
    <!-- run unseen: … -->       shell commands that only the test needs, in their place among the blocks
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, FencedCodeBlockLexer

from tests.system import ROOT

PAGES = sorted(
    [ROOT / "README.md", *(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "decisions")]
)
UNSEEN = "unseen"
LANGUAGES = {"sh", "console", "python", "toml", "json", "sql", "yaml", "mermaid", UNSEEN}
_MARK = re.compile(r"<!-- (not run|file): ((?:(?!-->).)+) -->\n\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block: its language, what is in it, the line of the page that it begins on, and its mark."""

    language: str
    text: str
    line: int
    not_run: str = ""
    file: str = ""


def _regions(document: Document) -> Iterator[Region]:
    """What sybil finds: fenced blocks, and unseen commands."""
    fenced = FencedCodeBlockLexer(".*", mapping={"language": "arguments", "source": "source"})
    unseen = DirectiveInHTMLCommentLexer("run unseen", arguments="")
    for region in [*fenced(document), *unseen(document)]:
        language = region.lexemes.get("arguments") or (UNSEEN if "directive" in region.lexemes else "")
        region.parsed = _block(document, region, language)
        region.evaluator = _nothing
        yield region


def _block(document: Document, region: Region, language: str) -> Block:
    mark = _MARK.search(document.text[: region.start].removesuffix(" " * 4))
    kind, said = (mark[1], " ".join(mark[2].split())) if mark else ("", "")
    return Block(
        language.strip(),
        str(region.lexemes["source"]),
        document.text.count("\n", 0, region.start) + 1,
        not_run=said if kind == "not run" else "",
        file=said if kind == "file" else "",
    )


def _nothing(_: Example) -> None:
    """Whoever has the blocks runs them: a page's blocks belong together."""


def blocks_of(page: Path) -> list[Block]:
    """Every block of a page."""
    document = Sybil([_regions], pattern="*.md", path=str(page.parent)).parse(page)
    return [example.parsed for example in document.examples()]


def has_own_system(page: Path) -> bool:
    return "<!-- own system -->" in page.read_text(encoding="utf-8")
