"""Every error that Quotagate raises on purpose.

QuotagateError
├── InvalidRequest              what was sent cannot be understood or is out of range
│   ├── CatalogInvalid          the catalog document contradicts itself
│   ├── BodyTooLarge            more bytes than the route reads
│   └── SignatureInvalid        nobody who has the secret signed it, or it was signed long ago
├── MethodNotAllowed            the route takes another method
├── Unauthenticated             no key, or one that is not known
├── Forbidden                   a key without the scope
├── NotFound                    no such thing in this tenant
│   ├── UnknownMetric
│   ├── UnknownOperation
│   ├── UnknownPlan
│   ├── ReceiptNotFound
│   └── ReservationNotFound
├── Conflict                    it cannot be done to what is there now
│   ├── AlreadyRefunded         nothing is left of what the receipt names
│   ├── ReservationSettled      it was committed or released, or it has expired
│   ├── BelowZero               a level cannot be given back further than that
│   ├── NotEnoughUnits          fewer unused units of grants than are to be given away
│   ├── TooMany                 of what one account may have at a time
│   ├── UnknownPrice            the catalog does not say what is bought with it
│   └── CatalogChanged          another version holds than the one that was named
├── NoSubscription              no active plan, and the tenant has no default one
├── IdempotencyKeyReused        the same key came with another body
├── CountersUnavailable         Redis did not answer in time, or refuses to write
│   └── CountersDamaged         it answered, and what stands there cannot be read
├── LedgerUnavailable           Postgres did not answer
└── Unsafe                      a setting or a server with which the promises could not be kept

A denial is not an error: it is a Decision. `code` is the word that a program can switch on; the gateway's table
turns it into an HTTP status.
"""

from typing import Any, ClassVar


class QuotagateError(Exception):
    """Base of all of them; `str(error)` is a sentence for people, `extra` holds the fields that help a program."""

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.extra = extra


class InvalidRequest(QuotagateError):
    code = "INVALID_REQUEST"


class CatalogInvalid(InvalidRequest):
    """`errors` lists every contradiction found, each with its path and what to write instead."""

    code = "INVALID_CATALOG"

    def __init__(self, errors: list[str]) -> None:
        super().__init__("; ".join(errors), errors=errors)
        self.errors = errors


class BodyTooLarge(InvalidRequest):
    code = "BODY_TOO_LARGE"


class SignatureInvalid(InvalidRequest):
    code = "INVALID_SIGNATURE"


class MethodNotAllowed(QuotagateError):
    code = "METHOD_NOT_ALLOWED"


class Unauthenticated(QuotagateError):
    code = "UNAUTHENTICATED"


class Forbidden(QuotagateError):
    code = "FORBIDDEN"


class NotFound(QuotagateError):
    code = "NOT_FOUND"


class UnknownMetric(NotFound):
    code = "UNKNOWN_METRIC"


class UnknownOperation(NotFound):
    code = "UNKNOWN_OPERATION"


class UnknownPlan(NotFound):
    code = "UNKNOWN_PLAN"


class ReceiptNotFound(NotFound):
    code = "RECEIPT_NOT_FOUND"


class ReservationNotFound(NotFound):
    code = "RESERVATION_NOT_FOUND"


class Conflict(QuotagateError):
    code = "CONFLICT"


class AlreadyRefunded(Conflict):
    code = "ALREADY_REFUNDED"


class ReservationSettled(Conflict):
    code = "RESERVATION_SETTLED"


class BelowZero(Conflict):
    code = "BELOW_ZERO"


class NotEnoughUnits(Conflict):
    code = "NOT_ENOUGH_UNITS"


class TooMany(Conflict):
    code = "TOO_MANY"


class UnknownPrice(Conflict):
    code = "UNKNOWN_PRICE"


class CatalogChanged(Conflict):
    code = "CATALOG_CHANGED"


class NoSubscription(QuotagateError):
    code = "NO_SUBSCRIPTION"


class IdempotencyKeyReused(QuotagateError):
    code = "IDEMPOTENCY_KEY_REUSED"


class CountersUnavailable(QuotagateError):
    code = "COUNTERS_UNAVAILABLE"


class CountersDamaged(CountersUnavailable):
    """No outage: nothing is let through for it."""


class LedgerUnavailable(QuotagateError):
    code = "LEDGER_UNAVAILABLE"


class Unsafe(QuotagateError):
    code = "UNSAFE"


def first_line(error: BaseException) -> str:
    """What an error says, for a log; what it is, where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
