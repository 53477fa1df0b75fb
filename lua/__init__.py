"""The scripts that run inside Redis, one a file."""

from pathlib import Path


def source(name: str) -> str:
    """The text of `<name>.lua`."""
    return (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")
