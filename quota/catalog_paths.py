"""Where something stands in a catalog document: `plans.pro.limits."a b"`, as TOML writes keys."""

import json
import re

_bare_key = re.compile(r"[A-Za-z0-9_-]{1,200}\Z")
_key = re.compile(r'[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"')


def joined(path: str, name: str) -> str:
    """A path as TOML writes it, so that a dot or a line feed in a name cannot be mistaken for something else."""
    shown = name if _bare_key.match(name) else json.dumps(name[:201])
    return f"{path}.{shown}" if path else shown


def path_at_start(sentence: str) -> str:
    """The path that an error begins with, "" if it begins with none."""
    end = 0
    while found := _key.match(sentence, end):
        end = found.end()
        if sentence[end : end + 1] != ".":
            break
        end += 1
    return sentence[:end] if sentence[end : end + 1] == ":" else ""


def names_in(path: str) -> list[str]:
    """The names that a path was joined from."""
    return [json.loads(key) if key.startswith('"') else key for key in _key.findall(path)]
