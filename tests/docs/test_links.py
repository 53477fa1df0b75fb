"""Every link between the pages leads somewhere, and every page can be found from the first one."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES
from tests.system import ROOT

MORE = [ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def links_of(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [each for each in LINK.findall(text) if not re.match(r"https?:", each)]


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_found_from_the_list_of_pages() -> None:
    index = ROOT / "docs/README.md"
    assert "docs/README.md" in links_of(ROOT / "README.md")
    listed = {(index.parent / link).resolve() for link in links_of(index)}
    assert [page.name for page in PAGES if page.parent == index.parent and page not in {*listed, index}] == []
