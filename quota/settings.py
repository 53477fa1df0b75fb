"""Settings: environment variables QUOTAGATE_*, read once into one frozen object; every mistake is reported at once."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from quota.errors import Unsafe
from quota.identifiers import IDENTIFIER_PATTERN

DURABILITIES = ("always", "everysec", "none")
MAX_SHARDS = 1024
MAX_WEBHOOK_SECRETS = 100
"""Each is tried with each delivery."""
_tenant = re.compile(IDENTIFIER_PATTERN.removesuffix("$") + r"\Z")
_webhook_secret = re.compile(r"whsec_[!-+\--~]{8,250}\Z")
LOG_LEVELS = ("debug", "info", "warning", "error")


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in schemes or not (parts.netloc or parts.path):
            raise ValueError(f"must be a URL that begins with {' or '.join(s + '://' for s in schemes)}")
        return text

    return parse


def _postgres_url(text: str) -> str:
    """Any spelling of a Postgres URL, as SQLAlchemy with psycopg wants it."""
    _url("postgresql", "postgres", "postgresql+psycopg")(text)
    return "postgresql+psycopg://" + text.split("://", 1)[1]


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return parse


def _secret(text: str) -> str:
    if not 8 <= len(text) <= 255 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be 8 to 255 printable ASCII characters without a space")
    return text


def _webhook_secrets(text: str) -> str:
    found = _pairs(text)
    if not all(_tenant.match(tenant) and _webhook_secret.match(secret) for tenant, secret in found):
        # Never the text itself: it is a secret, or near to one.
        raise ValueError("must be tenant=whsec_… for each secret, separated by commas")
    if len({secret for _, secret in found}) < len(found):
        raise ValueError("must be secrets that differ: by its secret alone a tenant is known")
    if len(found) > MAX_WEBHOOK_SECRETS:
        raise ValueError(f"must be {MAX_WEBHOOK_SECRETS} secrets at most")
    return text


def _pairs(text: str) -> list[tuple[str, str]]:
    parts = [part.strip().partition("=") for part in text.split(",")] if text else []
    return [(tenant, secret) for tenant, _, secret in parts]


def _text(text: str) -> str:
    return text


def _setting(parse: Callable[[str], Any], default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"parse": parse, "meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One field a variable: `redis_url` is QUOTAGATE_REDIS_URL. Empty means not set."""

    redis_url: str = _setting(
        _url("redis", "rediss", "unix"), "", "the Redis or Valkey that holds counters and journal"
    )
    broker_url: str = _setting(
        _url("redis", "rediss", "unix"), "", "the Redis that RQ uses; QUOTAGATE_REDIS_URL if unset"
    )
    database_url: str = _setting(_postgres_url, "", "Postgres, as the application role")
    owner_database_url: str = _setting(
        _postgres_url, "", "Postgres, as the role that owns the tables; for migrate and ledger archive"
    )
    admin_key: str = _setting(_secret, "", "the first API key, with every scope, of the tenant `default`")
    key_pepper: str = _setting(_secret, "", "secret that API keys are hashed with; the same for every gateway")
    host: str = _setting(_text, "127.0.0.1", "address that the gateway listens on")
    port: int = _setting(_whole(0, 65_535), 8080, "port that the gateway listens on; 0 = any free one")
    gateway_processes: int = _setting(_whole(1, 64), 1, "gateway processes that share the port")
    durability: str = _setting(
        _one_of(*DURABILITIES), "everysec", "least appendfsync that Redis must have: always, everysec, none"
    )
    deadline_ms: int = _setting(
        _whole(1, 10_000), 50, "how long one trip to Redis may take before the caller gets a 503"
    )
    shards: int = _setting(
        _whole(1, MAX_SHARDS), 64, "number of shards; fixed when the store is initialised by migrate"
    )
    idempotency_ttl_s: int = _setting(_whole(60, 604_800), 86_400, "how long an idempotency key is remembered")
    drain_hold_s: int = _setting(_whole(1, 60), 5, "how long one drain job holds on before the next takes over")
    journal_entries: int = _setting(
        _whole(1_000, 100_000_000), 5_000_000, "entries that may wait for the ledger before requests are refused"
    )
    reconcile_every_s: int = _setting(_whole(5, 86_400), 60, "seconds from one reconciliation to the next")
    max_corrections: int = _setting(
        _whole(0, 10_000), 100, "drifted accounts that a reconciliation corrects; when there are more, it corrects none"
    )
    max_drift_pct: int = _setting(
        _whole(1, 100), 10, "percent of the accounts that may drift and be corrected, once ten of them do"
    )
    outage_dir: str = _setting(
        _text,
        "",
        "folder for what an outage of both stores leaves; /var/tmp/quotagate-<uid>-<ledger> if unset",
    )
    stripe_webhook_secrets: str = _setting(
        _webhook_secrets, "", "secrets of Stripe's webhook endpoints, as tenant=whsec_… separated by commas"
    )
    metrics_dir: str = _setting(_text, "", "folder in which the processes of one machine add up their metrics")
    log_level: str = _setting(_one_of(*LOG_LEVELS), "info", "debug, info, warning or error")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], required: tuple[str, ...] = ()) -> "Settings":
        """Settings from QUOTAGATE_* variables; Unsafe with every mistake in it, one a line."""
        values: dict[str, Any] = {}
        mistakes: list[str] = []
        known = {variable(each.name): each for each in fields(cls)}
        mistakes += [
            f"{name} is not a setting; the settings are {', '.join(sorted(known))}"
            for name in sorted(environment)
            if name.startswith("QUOTAGATE_") and name not in known
        ]
        for name, each in known.items():
            text = environment.get(name, "")
            if text == "":
                if each.name in required:
                    mistakes.append(f"{name} is not set: {each.metadata['meaning']}")
                continue
            try:
                values[each.name] = each.metadata["parse"](text)
            except ValueError as error:
                mistakes.append(f"{name} {error}")
        if mistakes:
            raise Unsafe("\n".join(mistakes))
        return cls(**values)

    @property
    def webhook_secrets(self) -> list[tuple[str, str]]:
        """Tenants, each with a secret that Stripe signs its events with; a tenant may have several."""
        return _pairs(self.stripe_webhook_secrets)

    @property
    def effective_broker_url(self) -> str:
        return self.broker_url or self.redis_url


def variable(field_name: str) -> str:
    """The environment variable of a field."""
    return f"QUOTAGATE_{field_name.upper()}"
