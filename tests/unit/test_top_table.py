"""The table of `quotagate top`: numbers are there in every width."""

import io

import pytest
from rich.console import Console

from quotagate.top import shown

ROW = {"tenant": "a-tenant", "subject": "somebody-with-a-very-long-name", "metric": "ai_generations"}
ROW |= {"passed": 1_234, "denied": 567, "units": 8_910, "share_used": 1.25}
LOOKED = {"away": [], "ledger": None, "counters": None, "busiest": [ROW]}


@pytest.mark.parametrize(
    ("columns", "names"),
    [(200, list(ROW)[:3]), (80, list(ROW)[:3]), (70, ["subject", "metric"]), (40, ["subject"])],
)
def test_names_give_way_and_numbers_stay(columns: int, names: list[str]) -> None:
    out = io.StringIO()
    Console(width=columns, file=out).print(shown(LOOKED, None))
    _, titles, row, *_ = out.getvalue().splitlines()
    assert titles.split() == [*(name.upper() for name in names), "PASSED", "DENIED", "UNITS", "OF", "LIMIT"]
    cells = row.split()
    assert cells[len(names) :] == ["1,234", "567", "8,910", "125%"]
    assert cells[names.index("subject")][:4] == "some"
    assert len(row.rstrip()) <= columns
