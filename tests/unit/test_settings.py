"""Settings: one variable a field, every mistake told at once."""

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from quota.errors import Unsafe
from quota.settings import Settings, variable

GOOD: list[tuple[str, str, Any]] = [
    ("REDIS_URL", "rediss://:pw@host:6380/1", "rediss://:pw@host:6380/1"),
    ("REDIS_URL", "unix:///run/valkey.sock", "unix:///run/valkey.sock"),
    ("DATABASE_URL", "postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
    ("DATABASE_URL", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
    ("DATABASE_URL", "postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
    ("PORT", "0", 0),
    ("PORT", "65535", 65_535),
    ("DURABILITY", "always", "always"),
    ("ADMIN_KEY", "12345678", "12345678"),
    ("SHARDS", "1024", 1024),
    ("STRIPE_WEBHOOK_SECRETS", "a=whsec_12345678, b=whsec_abcdefgh", "a=whsec_12345678, b=whsec_abcdefgh"),
]
BAD = [
    ("REDIS_URL", "http://host"),
    ("REDIS_URL", "redis://"),
    ("REDIS_URL", "host:6379"),
    ("DATABASE_URL", "mysql://host/d"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("PORT", "8080 "),
    ("PORT", "1e3"),
    ("PORT", "\N{FULLWIDTH DIGIT EIGHT}"),
    ("PORT", "9" * 50),
    ("SHARDS", "0"),
    ("DEADLINE_MS", "0"),
    ("DURABILITY", "Always"),
    ("LOG_LEVEL", "verbose"),
    ("ADMIN_KEY", "short"),
    ("ADMIN_KEY", "with a space in it"),
    ("ADMIN_KEY", "ünïcode-key"),
    ("STRIPE_WEBHOOK_SECRETS", "whsec_12345678"),
    ("STRIPE_WEBHOOK_SECRETS", "a=sk_live_12345678"),
    ("STRIPE_WEBHOOK_SECRETS", "a=whsec_12345678,"),
    ("STRIPE_WEBHOOK_SECRETS", "a tenant=whsec_12345678"),
    ("STRIPE_WEBHOOK_SECRETS", "a=whsec_12345678,b=whsec_12345678"),
    ("STRIPE_WEBHOOK_SECRETS", ",".join(f"a=whsec_{number:08}" for number in range(101))),
]


def test_nothing_set_gives_the_defaults() -> None:
    assert Settings.from_environment({"PATH": "/bin", "HOME": "/"}) == Settings()


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_good_value_is_taken(name: str, text: str, value: object) -> None:
    assert getattr(Settings.from_environment({f"QUOTAGATE_{name}": text}), name.lower()) == value


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_is_told_with_its_variable_and_what_it_must_be(name: str, text: str) -> None:
    with pytest.raises(Unsafe, match=rf"^QUOTAGATE_{name} must be "):
        Settings.from_environment({f"QUOTAGATE_{name}": text})


@pytest.mark.parametrize(
    ("name", "text"),
    [("ADMIN_KEY", "short"), ("KEY_PEPPER", "a secret ü"), ("STRIPE_WEBHOOK_SECRETS", "whsec_12345678")],
)
def test_a_secret_is_never_shown_in_the_complaint(name: str, text: str) -> None:
    with pytest.raises(Unsafe) as refused:
        Settings.from_environment({f"QUOTAGATE_{name}": text})
    assert text not in str(refused.value)


def test_every_mistake_is_told_at_once_one_a_line() -> None:
    environment = {"QUOTAGATE_PORT": "x", "QUOTAGATE_DURABILITY": "y", "QUOTAGATE_REDIS": "z"}
    with pytest.raises(Unsafe) as refused:
        Settings.from_environment(environment, required=("database_url",))
    lines = str(refused.value).splitlines()
    assert sorted(line.split(" ")[0].removeprefix("QUOTAGATE_") for line in lines) == [
        "DATABASE_URL",
        "DURABILITY",
        "PORT",
        "REDIS",
    ]


def test_a_variable_that_is_no_setting_is_a_mistake_and_the_settings_are_listed() -> None:
    with pytest.raises(Unsafe, match=r"QUOTAGATE_REDIS_URI is not a setting; the settings are .*QUOTAGATE_REDIS_URL"):
        Settings.from_environment({"QUOTAGATE_REDIS_URI": "redis://h"})


@pytest.mark.parametrize("environment", [{}, {"QUOTAGATE_REDIS_URL": ""}])
def test_empty_means_not_set(environment: dict[str, str]) -> None:
    with pytest.raises(Unsafe, match="QUOTAGATE_REDIS_URL is not set: the Redis or Valkey"):
        Settings.from_environment(environment, required=("redis_url",))


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_the_broker_is_the_counters_server_unless_it_is_named() -> None:
    assert Settings(redis_url="redis://a").effective_broker_url == "redis://a"
    assert Settings(redis_url="redis://a", broker_url="redis://b").effective_broker_url == "redis://b"


def test_every_setting_says_what_it_means_and_has_a_default_that_it_would_take() -> None:
    for each in fields(Settings):
        assert len(each.metadata["meaning"]) > 10, each.name
        assert variable(each.name) == f"QUOTAGATE_{each.name.upper()}"
        if each.default != "":
            assert each.metadata["parse"](str(each.default)) == each.default, each.name


def test_webhook_secrets_are_pairs_of_a_tenant_and_one_of_its_secrets() -> None:
    text = "a=whsec_12345678, a=whsec_23456789,b@x=whsec_base64=="
    found = Settings.from_environment({"QUOTAGATE_STRIPE_WEBHOOK_SECRETS": text}).webhook_secrets
    assert found == [("a", "whsec_12345678"), ("a", "whsec_23456789"), ("b@x", "whsec_base64==")]
    assert Settings().webhook_secrets == []
