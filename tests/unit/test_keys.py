"""The names in Redis: each account has one, no two share one, and what is charged together lies together."""

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quota import keys
from quota.keys import AccountName

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
# Few characters, so that near misses are tried often: colons, and what an escape could be mistaken for.
identifiers = st.one_of(
    st.text("a:%3A/", min_size=1, max_size=8).filter(lambda text: "%" not in text),
    st.from_regex(r"[A-Za-z0-9._\-:@/+]{1,200}", fullmatch=True),
)
accounts = st.builds(AccountName, identifiers, identifiers, identifiers)
shards = st.integers(0, 1023)


def hash_tag(key: str) -> str:
    """What Redis Cluster hashes of a key: the text between the first { and the next }, if there is any."""
    opened = key.find("{")
    closed = key.find("}", opened + 1)
    return key[opened + 1 : closed] if opened >= 0 and closed > opened + 1 else key


@calm
@given(accounts, shards)
def test_an_accounts_key_tells_the_account_and_its_shard(account: AccountName, shard: int) -> None:
    assert keys.account_of(account.key(shard)) == (shard, account)


@calm
@given(accounts, accounts, shards)
def test_two_accounts_never_share_a_key(one: AccountName, other: AccountName, shard: int) -> None:
    assume(one != other)
    assert one.key(shard) != other.key(shard)


def test_a_colon_moves_no_boundary_between_the_parts_of_an_account() -> None:
    cuts = [("a", "b:c", "d"), ("a:b", "c", "d"), ("a", "b", "c:d"), ("a:b:c", "d", "e"), ("a", "b:c:d", "e")]
    assert len({AccountName(*cut).key(0) for cut in cuts}) == len(cuts)


@calm
@given(identifiers, identifiers, identifiers, identifiers, st.integers(1, 1024))
def test_members_of_an_organisation_share_its_shard(
    tenant: str, subject: str, member: str, other: str, shard_count: int
) -> None:
    organisation = subject.split("/", maxsplit=1)[0]
    shard = keys.shard_of(tenant, organisation, shard_count)
    assert 0 <= shard < shard_count
    for path in (f"{organisation}/{member}", f"{organisation}/{other}", f"{organisation}/{member}/{other}"):
        assert keys.shard_of(tenant, path, shard_count) == shard


def test_the_shard_of_a_subject_is_the_same_for_ever() -> None:
    """It is where its journal lies: another hash would look for it elsewhere."""
    found = [keys.shard_of("default", subject, 64) for subject in ("u_1", "acme/alice", "acme/bob", "a:b", "@")]
    assert found == [20, 5, 5, 20, 24]


def test_subjects_spread_over_all_shards() -> None:
    counts = [0] * 64
    for number in range(64_000):
        counts[keys.shard_of("default", f"u_{number}", 64)] += 1
    assert 800 < min(counts) <= max(counts) < 1200


@calm
@given(accounts, st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255), shards)
def test_every_key_of_a_call_has_the_shards_hash_tag(account: AccountName, idempotency_key: str, shard: int) -> None:
    names = [
        keys.head(shard),
        keys.journal(shard),
        account.key(shard),
        keys.record(shard, account.tenant, account.subject, "consume", idempotency_key),
    ]
    assert {hash_tag(name) for name in names} == {str(shard)}
    assert len(set(names)) == len(names)


texts = st.text("a:/{", min_size=1, max_size=4)


@calm
@given(st.tuples(identifiers, identifiers, texts), st.tuples(identifiers, identifiers, texts))
def test_two_idempotency_keys_never_share_a_record(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assume(one != other)
    assert keys.record(0, *one[:2], "consume", one[2]) != keys.record(0, *other[:2], "consume", other[2])


def test_one_key_on_two_routes_is_two_records() -> None:
    assert keys.record(0, "t", "u", "consume", "k") != keys.record(0, "t", "u", "refunds", "k")
