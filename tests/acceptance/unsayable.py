"""What no JSON Schema can say: requests that are as the OpenAPI document has them, and refused all the same.

schemathesis loads this as its hooks. A refusal that no row explains is a finding.
"""

import re
from typing import Any, NamedTuple

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData

CODE = re.compile(r"[A-Z_]+\Z")
WHOLE_FLOAT = re.compile(
    r"is a whole number, not a number with a decimal point|write a whole number, not [-0-9.e+]+(;|\Z)"
)
REPEATABLE = {"Consume", "ConsumeBatch", "Refund", "Release", "Reserve", "Commit", "ReleaseReservation"}
REPORTS = {"ReadUsage", "ReadStatement", "ListEntries", "ListPeriods"}
DATED = {*REPORTS, "ReadStatus", "ReadCatalog"}
CONTRADICTIONS = [
    r"no such metric; declare it",
    r"no such plan; write the name",
    r"the rank of .* too; write one of its own",
    r"stands in .* too; leave it in one place, once",
    r"a level is held, not reset",
    r"a level has no periods to cap",
    r"not a period shorter than the limit's own",
    r"needs a limit and a period to roll over from",
    r"write whole percents from 1 to 99, ascending",
    r"17 levels; write 16 at most",
    r"write 1 to 40 printable characters",
]
"""Of the parts of a catalog; and what of a word is printable, what of a list ascends."""


class Unsayable(NamedTuple):
    """A refusal: by its operations, the code or the words of its answer, and why no schema says it."""

    operations: set[str]
    words: str
    why: str


ROWS = [
    Unsayable(
        REPEATABLE | {"GiveGrant", "GiveGift", "CorrectCounter"},
        "IDEMPOTENCY_KEY_REUSED",
        "whether a key was used before",
    ),
    Unsayable(
        REPEATABLE - {"ReleaseReservation"} | {"CorrectCounter"},
        "metadata may take 2048 bytes at most",
        "the size of a whole",
    ),
    Unsayable({"Consume", "Check", "ConsumeBatch"}, "quantity is too large: it would charge more", "a price"),
    Unsayable({"ConsumeBatch"}, "an atomic batch is for one subject", "that two members are equal"),
    Unsayable({"ConsumeBatch"}, "together the items ask for more than", "a sum"),
    Unsayable({"GiveGift"}, "from and to are the same subject", "that two members are not equal"),
    Unsayable({"Refund"}, "this receipt charges several metrics", "what a receipt names"),
    Unsayable({"Release", "WriteLevel"}, "is counted by period and not held", "what the catalog says of a metric"),
    Unsayable({"GiveGrant", "CreateApiKey", "WriteOverride"}, "expires_at lies in the past", "what time it is"),
    Unsayable({"WriteSubscription"}, "status_until lies in the past", "what time it is"),
    Unsayable({"WriteSubscription"}, "has no status_until", "that a status excludes another member"),
    Unsayable(
        {"GiveGrant", "WriteSubscription", "WriteOverride", "CreateApiKey"},
        "there is no such instant",
        "that an offset leads out of all years",
    ),
    Unsayable({"WriteSubscription"}, "the catalog has no add-on", "what the catalog has"),
    Unsayable(
        {"ListPlans", "ListApiKeys", "ListCatalogVersions", "ListOverrides", "ListActs", *REPORTS},
        "cursor is not one that this list has given out",
        "what was given out",
    ),
    Unsayable(REPORTS | {"ListActs"}, "from must lie before to", "an order of two parameters"),
    Unsayable({"ReadUsage"}, "days apart at most", "a distance of two parameters"),
    Unsayable(DATED | {"ListActs"}, "there is no such instant", "that an offset leads out of all years"),
    Unsayable(DATED | {"ListActs"}, "an instant must lie in the years", "a range of instants"),
    Unsayable({"WriteCatalog"}, "CATALOG_CHANGED", "which version holds"),
    Unsayable({"ReadCatalog"}, "name a version or an instant, not both", "that one parameter excludes another"),
    Unsayable({"ReadStatus", "ReadCatalog"}, "at lies in the future", "what time it is"),
    Unsayable({"StartJob"}, "from must lie before to", "an order of two members"),
    Unsayable({"StartJob"}, "there is no such instant", "that an offset leads out of all years"),
]


def explained(operation: str, answer: dict[str, Any], body: Any) -> bool:
    """Whether some row says why this was refused."""
    code, detail = answer.get("code"), str(answer.get("detail"))
    if WHOLE_FLOAT.search(detail):
        return _has_whole_float(body)  # to a schema 1.0 is an integer, and here no float is
    if code == "INVALID_CATALOG":
        return all(any(re.search(each, error) for each in CONTRADICTIONS) for error in answer["errors"])
    return any(
        operation in row.operations and (code == row.words if CODE.match(row.words) else row.words in detail)
        for row in ROWS
    )


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_whole_float, value.values()))
    if isinstance(value, list):
        return any(map(_has_whole_float, value))
    return isinstance(value, float) and value.is_integer()


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether schemathesis is to tell of this failure."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code not in {400, 412, 422}:
        return True
    return not explained(case.operation.definition.raw["operationId"], response.json(), case.body)
