"""What a new catalog means, in words: whom each line concerns, and what gets tighter."""

import pytest

from quota.catalog import Catalog, parse_toml
from quota.catalog_effects import Effect, effects

NOW = """
default_plan = "free"
[metrics.ai]
[metrics.exports]
[operations.reel]
charges = { ai = 5 }
[plans.free]
limits.ai = { limit = 10, period = "month" }
[plans.pro]
rank = 1
limits.ai = { limit = 500, period = "month" }
limits.exports = { limit = 50, period = "month", enforcement = "soft" }
[add_ons.extra]
adds.ai = 100
"""


def told(*changes: tuple[str, str]) -> dict[str, Effect]:
    document = NOW
    for old, new in changes:
        assert old in document
        document = document.replace(old, new, 1)
    return {each.path: each for each in effects(parse_toml(NOW), parse_toml(document))}


CHANGES = [
    ("limit = 500", "limit = 800", "plans.pro.limits.ai", "500 → 800 a month", False),
    ("limit = 500", "limit = 400", "plans.pro.limits.ai", "500 → 400 a month", True),
    ("{ limit = 500, ", "{ ", "plans.pro.limits.ai", "500 a month → unlimited (by month)", False),
    ('limit = 500, period = "month"', "limit = 500", "plans.pro.limits.ai", "500 a month → 500 in all", True),
    ('500, period = "month"', '500, period = "day"', "plans.pro.limits.ai", "500 a month → 500 a day", False),
    (
        '500, period = "month"',
        '500, period = "month", caps = { day = 200 }',
        "plans.pro.limits.ai",
        "500 a month → 500 a month, 200 a day at most",
        True,
    ),
    (', enforcement = "soft"', "", "plans.pro.limits.exports", "50 a month, soft → 50 a month", True),
    ("limits.exports = ", "# ", "plans.pro.limits.exports", "50 a month, soft → none", True),
    ("rank = 1", "rank = 2", "plans.pro.rank", "1 → 2", False),
    ("rank = 1", 'rank = 1\nstripe_prices = ["price_1"]', "plans.pro.stripe_prices", '[] → ["price_1"]', False),
    (
        "adds.ai = 100",
        'adds.ai = 100\nstripe_prices = ["price_1"]',
        "add_ons.extra.stripe_prices",
        'stripe_prices: [] → ["price_1"]',
        False,
    ),
    ("ai = 5", "ai = 6", "operations.reel", "5 → 6 ai", True),
    ("ai = 5", "ai = 4", "operations.reel", "5 → 4 ai", False),
    ("adds.ai = 100", "adds.ai = 90", "add_ons.extra", "100 → 90 ai", True),
    ("[metrics.ai]", '[metrics.ai]\non_outage = "allow"', "metrics.ai.on_outage", "on_outage: deny → allow", False),
    ('default_plan = "free"', "", "default_plan", "free → none", True),
    ('default_plan = "free"', 'default_plan = "pro"', "default_plan", "free → pro", False),
    ("[metrics.exports]", "[metrics.exports]\n[metrics.seats]", "metrics.seats", "new counter", False),
    ("[add_ons.extra]\nadds.ai = 100", "", "add_ons.extra", "removed: 100 ai", True),
    ("[operations.reel]\ncharges = { ai = 5 }", "", "operations.reel", "removed: whoever asks for it gets a 404", True),
]


@pytest.mark.parametrize(("old", "new", "path", "words", "is_tighter"), CHANGES)
def test_a_change_is_told_in_words_and_marked_where_it_gets_tighter(
    old: str, new: str, path: str, words: str, is_tighter: bool
) -> None:
    found = told((old, new))
    assert list(found) == [path]
    assert (found[path].words, found[path].is_tighter) == (words, is_tighter)


def test_who_is_on_the_plan_has_the_add_on_or_uses_the_metric_is_concerned() -> None:
    found = told(
        ("limit = 500", "limit = 1"),
        ("adds.ai = 100", "adds.ai = 1"),
        ("[metrics.exports]", "[metrics.exports]\nunit = 'x'"),
        ("ai = 5", "ai = 1"),
    )
    concerned = {path: each.concerned for path, each in found.items()}
    assert concerned["operations.reel"] is None, "nobody can count who calls it"
    on_plan, with_add_on, with_metric = (
        concerned[path] for path in ("plans.pro.limits.ai", "add_ons.extra", "metrics.exports.unit")
    )
    assert on_plan is not None and on_plan.plans == ("pro",)
    assert with_add_on is not None and with_add_on.add_on == "extra"
    assert with_metric is not None and with_metric.plans == ("pro",)
    assert found["plans.pro.limits.ai"].new_limit == 1


def test_of_a_plan_that_goes_it_is_told_what_its_subjects_have_less_of() -> None:
    pro = NOW[NOW.index("[plans.pro]") : NOW.index("[add_ons")]
    found = told((pro, ""))
    assert found["plans.pro"].words == "removed; its subjects are on free then"
    assert found["plans.pro.limits.ai"].words == "500 → 10 a month"
    assert found["plans.pro.limits.exports"].words == "50 a month, soft → 0 in all"
    assert all(each.is_tighter for each in found.values())


def test_a_first_catalog_and_an_equal_one() -> None:
    now = parse_toml(NOW)
    assert effects(now, now) == []
    first = effects(Catalog(), now)
    assert [each.path for each in first][:2] == ["plans.free", "plans.pro"]
    assert not any(each.is_tighter for each in first)
