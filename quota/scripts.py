"""The scripts as Redis knows them: the one door to `lua`."""

from hashlib import sha1
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

import lua
from quota.protocol import Call


class Script:
    """A script's text and its name in Redis's cache."""

    __slots__ = ("sha", "text")

    def __init__(self, name: str) -> None:
        self.text = lua.source(name)
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


SCRIPTS = {name: Script(name) for name in ("consume", "provision", "roll", "publish", "begin_epoch", "correct", "trim")}


def run(connection: Redis, call: Call) -> Any:
    """Runs a script, for callers that may block. A forgotten script is sent again: nothing of it had run."""
    script = SCRIPTS[call.script]
    try:
        return connection.evalsha(script.sha, len(call.keys), *call.keys, *call.arguments)
    except NoScriptError:
        return connection.eval(script.text, len(call.keys), *call.keys, *call.arguments)
