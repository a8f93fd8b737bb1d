"""Positions, cursors and headers: what we made is read back, and anything else is a named problem, never a fault."""

import contextlib
import hashlib
import string
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.http import tokens
from shared.http.headers import parse_idempotency_key, parse_wait
from shared.http.paging import Keyset
from shared.http.position import PositionToken
from shared.http.problems import BadCursor, BadKey, BadPosition
from tests.http.conftest import THINGS

OFFSETS = some.dictionaries(some.integers(0, 11), some.integers(0, 2**63 - 1), max_size=12)
POSITIONS = some.builds(
    PositionToken, some.dictionaries(some.sampled_from(["door", "points", "contacts"]), OFFSETS), OFFSETS
)
JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**63), 2**63) | some.floats() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
)
SHAPES = some.fixed_dictionaries({}, optional={"i": some.dictionaries(some.text(max_size=4), JSON), "e": JSON})


def furthest(token: PositionToken) -> dict[tuple[str, int], int]:
    found = {("", at): offset for at, offset in token.events.items()}
    for worker, offsets in token.inboxes.items():
        found |= {(worker, at): offset for at, offset in offsets.items()}
    return found


@given(POSITIONS)
def test_a_position_is_read_back_as_it_was(token: PositionToken) -> None:
    assert furthest(PositionToken.decode(token.encode())) == furthest(token)


@given(POSITIONS, POSITIONS, POSITIONS)
def test_merging_includes_both_commutes_associates_and_repeats(
    one: PositionToken, two: PositionToken, three: PositionToken
) -> None:
    merged = furthest(one.merge(two))
    for part in (one, two):
        assert all(merged[at] >= offset for at, offset in furthest(part).items())
    assert merged == furthest(two.merge(one)) == furthest(one.merge(two).merge(two))
    assert furthest(one.merge(two).merge(three)) == furthest(one.merge(two.merge(three)))


@given(some.text(max_size=60) | some.text(string.ascii_letters + "-_=", max_size=60) | JSON.map(tokens.encode))
def test_anything_else_is_a_bad_position_and_a_bad_cursor(text: str) -> None:
    with contextlib.suppress(BadPosition):
        assert PositionToken.decode(text) == PositionToken()
    with pytest.raises(BadCursor):
        Keyset("things", (str, int, datetime)).decode(text)


@given(SHAPES)
def test_a_forged_position_is_refused_or_within_bounds(shape: dict[str, object]) -> None:
    try:
        token = PositionToken.decode(tokens.encode(shape))
    except BadPosition:
        return
    assert all(0 <= at < 12 and 0 <= offset < 2**63 for (_, at), offset in furthest(token).items())


@pytest.mark.parametrize(
    "body",
    [
        {"e": {"12": 1}},
        {"e": {"-1": 1}},
        {"e": {"01": 1}},
        {"e": {"0": -1}},
        {"e": {"0": 2**63}},
        {"e": {"0": 1.0}},
        {"e": {"0": True}},
        {"e": []},
        {"i": {"Points": {"0": 1}}},
        {"i": {"points": 1}},
        {"i": {f"w{number}": {} for number in range(17)}},
        {"x": {}},
        [],
        None,
    ],
)
def test_these_are_not_positions(body: object) -> None:
    with pytest.raises(BadPosition):
        PositionToken.decode(tokens.encode(body))


KEYS = some.tuples(
    some.text(some.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    some.integers(-(2**63) + 1, 2**63 - 1),
    some.datetimes(timezones=some.just(UTC)),
)


@given(KEYS)
def test_a_cursor_is_read_back_as_it_was_and_by_its_own_list_only(key: tuple[str, int, datetime]) -> None:
    keyset = Keyset("things", (str, int, datetime))
    assert keyset.decode(keyset.encode(key)) == key
    with pytest.raises(BadCursor):
        Keyset("others", (str, int, datetime)).decode(keyset.encode(key))


async def test_pages_joined_are_the_whole_list_once(client: httpx.AsyncClient) -> None:
    for limit in (1, 7, 120, 200):
        seen: list[str] = []
        query: dict[str, str | int] = {"limit": limit}
        while True:
            page = (await client.get("/v1/things", params=query)).json()
            assert len(page["items"]) <= limit
            seen += page["items"]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert seen == THINGS


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid-request"),
        ("limit=201", "invalid-request"),
        ("limit=a", "invalid-request"),
        ("cursor=junk", "bad-cursor"),
        ("cursor=%F0%9F%92%A9", "bad-cursor"),
        ("cursor=" + "x" * 9000, "invalid-request"),
        ("cursor=" + tokens.encode(["others", "a"]), "bad-cursor"),
        ("cursor=" + tokens.encode(["things", 1]), "bad-cursor"),
        ("cursor=" + tokens.encode(["things", "a\0"]), "bad-cursor"),
    ],
)
async def test_a_bad_limit_or_cursor_is_422(client: httpx.AsyncClient, query: str, code: str) -> None:
    answer = await client.get(f"/v1/things?{query}")
    assert (answer.status_code, answer.json()["type"]) == (422, f"/problems/{code}")


THING = {"name": "a", "amount_minor": 1}


async def test_the_key_the_hash_the_wait_and_the_position_reach_the_endpoint(client: httpx.AsyncClient) -> None:
    one, two = PositionToken({"points": {3: 8}}), PositionToken({"points": {3: 5}}, {0: 2})
    headers = {
        "Idempotency-Key": "order-1001",
        "Prefer": "respond-async, wait=7",
        "Regulars-After": f"{one.encode()}, {two.encode()}",
        "Content-Type": "application/json",
    }
    raw = b'{"name": "a",  "amount_minor": 1}'
    answer = (await client.post("/v1/things", content=raw, headers=headers)).json()
    assert answer["key"] == "order-1001"
    assert answer["hash"] == hashlib.sha256(raw).hexdigest()
    assert answer["wait"] == 7
    assert PositionToken.decode(answer["after"]) == one.merge(two)


async def test_without_these_headers_a_key_is_made_and_the_wait_is_the_default(client: httpx.AsyncClient) -> None:
    answers = [(await client.post("/v1/things", json=THING)).json() for _ in range(2)]
    assert answers[0]["key"] != answers[1]["key"]
    assert len(answers[0]["key"]) == 32
    assert answers[0]["wait"] == 2
    assert answers[0]["after"] == ""


@pytest.mark.parametrize("key", [b"", b"a b", b"\x80", b"x" * 256, b"caf\xc3\xa9"])
async def test_a_bad_idempotency_key_is_422(client: httpx.AsyncClient, key: bytes) -> None:
    answer = await client.post("/v1/things", json=THING, headers=[(b"Idempotency-Key", key)])
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/bad-idempotency-key")


async def test_a_bad_position_is_400(client: httpx.AsyncClient) -> None:
    good = PositionToken({}, {0: 2}).encode()
    for after in ("junk", f"{good},x", ",".join([good] * 17)):
        answer = await client.post("/v1/things", json=THING, headers={"Regulars-After": after})
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-position")


@given(some.text(string.printable, max_size=300))
def test_a_key_is_visible_ascii_or_refused(text: str) -> None:
    visible = 1 <= len(text) <= 255 and all("!" <= character <= "~" for character in text)
    if visible:
        assert parse_idempotency_key(text) == text
    else:
        with pytest.raises(BadKey):
            parse_idempotency_key(text)


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ([], 2),
        (["wait=0"], 0),
        (["wait=60"], 60),
        (["wait=61"], 60),
        (["WAIT = 5"], 5),
        (['wait="5"'], 5),
        (["respond-async", "wait=5; x=y"], 5),
        (["wait=3, wait=9"], 3),
        (["wait=-1"], 2),
        (["wait=abc"], 2),
        (["wait=٣"], 2),
        (["wait=99999999999999999999"], 2),
    ],
)
def test_prefer_wait_is_bounded_and_what_is_not_understood_is_passed_over(lines: list[str], seconds: float) -> None:
    assert parse_wait(lines, 2) == seconds


@given(some.lists(some.text(max_size=30), max_size=4))
def test_any_prefer_is_within_bounds(lines: list[str]) -> None:
    assert 0 <= parse_wait(lines, 2) <= 60
