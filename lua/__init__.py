"""The scripts that run inside Redis, one a file, and in `rules/` what several of them share."""

import re
from functools import cache
from pathlib import Path

_include = re.compile(r"^( *)-- @include (\S+)\n", re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text of `<name>.lua`, with every line `-- @include <other>` replaced by the text of that file."""
    text = (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")
    return _include.sub(lambda found: source(found[2]), text)
