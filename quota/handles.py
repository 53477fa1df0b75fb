"""The names that callers get for what was done: receipts of what was charged, and ids of reservations. Pure."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from quota.errors import InvalidRequest, ReceiptNotFound, ReservationNotFound
from quota.identifiers import checked_identifier

MAX_NUMBER_DIGITS = 16
MAX_RECEIPT_ENTRIES = 1_000
"""Far more than one request charges: nobody may have a whole journal read by naming it."""
MAX_ID_CHARACTERS = 700
"""Two identifiers of 200 characters and a place, in base64."""

_PREFIX = "rsv_"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Names `count` neighbouring entries of one journal: `<shard>.<epoch>-<first_n>.<count>`."""

    shard: int
    epoch: int
    first_n: int
    count: int

    def __str__(self) -> str:
        return f"{self.shard}.{self.epoch}-{self.first_n}.{self.count}"

    @classmethod
    def parsed(cls, text: str) -> "Receipt":
        """ReceiptNotFound when it is none."""
        words = text.replace(".", "-").split("-")
        if len(words) == 4 and all(map(_is_number, words)):
            receipt = cls(*map(int, words))
            if str(receipt) == text and 0 < receipt.count <= MAX_RECEIPT_ENTRIES:
                return receipt
        raise ReceiptNotFound("there is no such receipt")


@dataclass(frozen=True, slots=True)
class Reservation:
    """Names a hold by its entry, and says whose it is, so that it is found without being looked up.

    To callers it is one opaque word. The tenant is not in it: it comes from the key, so that the id of another tenant's
    reservation leads nowhere.
    """

    epoch: int
    n: int
    subject: str
    metric: str

    def __str__(self) -> str:
        text = f"{self.epoch} {self.n} {self.subject} {self.metric}"
        return _PREFIX + urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @property
    def place(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def parsed(cls, text: str) -> "Reservation":
        """ReservationNotFound when it is none."""
        try:
            if len(text) > MAX_ID_CHARACTERS or not text.startswith(_PREFIX):
                raise ValueError
            coded = text.removeprefix(_PREFIX)
            words = urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode("ascii").split(" ")
            epoch, n, subject, metric = words
            checked_identifier(subject, "subject")
            checked_identifier(metric, "metric")
            if _is_number(epoch) and _is_number(n) and str(found := cls(int(epoch), int(n), subject, metric)) == text:
                return found
        except (ValueError, InvalidRequest):
            pass
        raise ReservationNotFound("there is no such reservation")


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= MAX_NUMBER_DIGITS
