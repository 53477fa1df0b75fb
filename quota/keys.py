"""The names of everything in Redis. No other module makes one.

All keys of one subject, and of every subject that shares the part before the first `/`, carry one hash tag, so that one
call may touch all of them, on Redis Cluster too.
"""

from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

ACCOUNT_PATTERN = "qg:{*}:a:*"


def _escaped(identifier: str) -> str:
    # Identifiers may hold colons; without this `a` + `b:c` and `a:b` + `c` would be one account.
    return identifier.replace(":", "%3A") if ":" in identifier else identifier


@lru_cache(maxsize=65_536)
def shard_of(tenant: str, subject: str, shard_count: int) -> int:
    """The shard of a subject: the same for all members of an organisation (`acme/alice`, `acme/bob`)."""
    return crc32(f"{_escaped(tenant)}:{subject.split('/', 1)[0]}".encode()) % shard_count


def head(shard: int) -> str:
    """A hash: epoch, fence and each tenant's catalog version."""
    return f"qg:{{{shard}}}:h"


def journal(shard: int) -> str:
    """A stream whose ids are `<epoch>-<n>`, without a gap."""
    return f"qg:{{{shard}}}:j"


def catalog_field(tenant: str) -> str:
    """The head's field that holds a tenant's catalog version."""
    return f"catalog:{tenant}"


class AccountName(NamedTuple):
    """One subject's one metric: the unit of counting. A tuple, because whoever does something for all accounts looks up
    each by its name a dozen times."""

    tenant: str
    subject: str
    metric: str

    def key(self, shard: int) -> str:
        """A hash: state, rule, window, and what only some accounts have (`lua/rules/account.lua`)."""
        return f"qg:{{{shard}}}:a:{_escaped(self.tenant)}:{_escaped(self.subject)}:{_escaped(self.metric)}"


def account_of(key: str) -> tuple[int, AccountName]:
    """Shard and account of an account's key: the way back from `AccountName.key`."""
    _, tag, _, *words = key.split(":")
    tenant, subject, metric = [word.replace("%3A", ":") for word in words] if "%" in key else words
    return int(tag.strip("{}")), AccountName(tenant, subject, metric)


def tag_of(key: str) -> str:
    """A key's hash tag: keys that share it may be named in one call."""
    return key[: key.index("}") + 1]


def metric_of(key: str) -> str:
    """The metric of an account's key."""
    return key.rpartition(":")[2].replace("%3A", ":")


def refunds(shard: int, epoch: int, first_n: int) -> str:
    """A hash: how much of each entry of a receipt was given back, by the entry's place."""
    return f"qg:{{{shard}}}:f:{epoch}-{first_n}"


def record(shard: int, tenant: str, subject: str, route: str, idempotency_key: str) -> str:
    """A string: what was answered under an idempotency key. The key comes last, because it may hold any character."""
    return f"qg:{{{shard}}}:i:{_escaped(tenant)}:{_escaped(subject)}:{route}:{idempotency_key}"
