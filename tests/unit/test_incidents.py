"""What people on call read of a loss: that there was nothing is another thing than that nobody knows."""

from typing import Any

import pytest

from ledger.incidents import what_was_lost

BEHIND = {"lost_epoch": 1, "epoch": 2, "ledger_has": "1-9", "counters_had": "1-4", "units": 0}
NOT_KNOWN = "whether callers were told of more is not known"
TOLD_NO_MORE = "told callers of nothing else"
TOLD_MORE = "`lost_entries` says what of it the ledger has not got"


@pytest.mark.parametrize(
    ("kind", "detail", "of_the_ledgers", "of_what_was_told"),
    [
        ("lost", {"ledger_has": "1-9"}, "the ledger had all up to 1-9", NOT_KNOWN),
        ("lost", {"ledger_has": "1-9", "callers_were_told": "1-9"}, "all up to 1-9", TOLD_NO_MORE),
        ("lost", {"ledger_has": "1-9", "callers_were_told": "1-10"}, "all up to 1-9", TOLD_MORE),
        ("lost", {"ledger_has": "0-0", "callers_were_told": "1-10"}, "had nothing of this shard", TOLD_MORE),
        ("rewound", BEHIND | {"entries": 5}, "had forgotten 5 entries of the ledger's", NOT_KNOWN),
        ("rewound", BEHIND | {"entries": 50_000, "and_more": True}, "50,000 entries of the ledger's, and more", ""),
        ("rewound", BEHIND | {"entries": 0}, "had forgotten nothing that the ledger had", NOT_KNOWN),
        ("rewound", BEHIND | {"entries": 0, "and_more": True}, "how much Redis had forgotten is not known", ""),
        ("rewound", BEHIND | {"entries": 0, "callers_were_told": "2-0"}, "nothing that the ledger had", TOLD_MORE),
    ],
)
def test_what_was_lost_is_told_apart_from_what_is_not_known(
    kind: str, detail: dict[str, Any], of_the_ledgers: str, of_what_was_told: str
) -> None:
    first, second = what_was_lost(kind, detail)
    assert of_the_ledgers in first and of_what_was_told in second


@pytest.mark.parametrize(("kind", "detail"), [("gap", {"ledger_has": "1-9"}), ("lost", {}), ("rewound", {})])
def test_of_anything_else_the_detail_says_it_all(kind: str, detail: dict[str, Any]) -> None:
    assert what_was_lost(kind, detail) == []
