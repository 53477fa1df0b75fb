"""Which of several events is the newest. Stripe delivers them in any order, and tells their instants in whole seconds.

Events of different seconds are ordered by them. What is left are those of one second, and of these all that were heard
are kept: the last one follows from the set of them, so that the order in which they came cannot matter.

An update says how the subscription was before it and how it is after it: it is a step from the one to the other. All
steps of a second, one behind the other, are a walk, and the walk ends where it was gone to more often than it was left.
"""

from collections import Counter
from collections.abc import Sequence

from quota.stripe_events import Heard, Snapshot

MAX_HEARD = 32
"""Events of one subscription in one second; it is rarely more than three."""
_IN_FORCE = ("active", "trialing", "past_due")


def newest(heard: Sequence[Heard]) -> Heard:
    """The last of these events, which are all of one subscription and one second.

    A deletion is the last, a creation the first. Where the steps are a circle, or where some between them are missing,
    it cannot be known: then it is the one that is better for the customer, because blocking somebody who has paid is
    worse than serving somebody who has not until the next event.
    """
    deleted = [each for each in heard if each.kind == "deleted"]
    if deleted:
        return max(deleted, key=_in_favour)
    balance = _balance(heard)
    ends = [each for each in heard if balance[each.after] > 0] or list(heard)
    reached = [each for each in ends if each.kind != "created"] or ends
    return max(reached, key=_in_favour)


def _balance(heard: Sequence[Heard]) -> Counter[Snapshot]:
    """How much more often each state was gone to than left."""
    balance: Counter[Snapshot] = Counter()
    for each in heard:
        if each.before is not None and each.before != each.after:
            balance[each.after] += 1
            balance[each.before] -= 1
        if each.kind == "created":
            balance[each.after] += 1
    # What only says how things are, adds nothing to what the steps say of the same state.
    for state in {each.after for each in heard} - balance.keys():
        balance[state] = 1
    return balance


def _in_favour(each: Heard) -> tuple[bool, bool, int, str]:
    state = each.after
    is_in_force = state.status in _IN_FORCE and state.pause != "void"
    return is_in_force, state.cancels_at_s is None, sum(quantity for _, quantity in state.items), each.id
