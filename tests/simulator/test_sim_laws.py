"""Every law checker finds the breach that is planted for it, and nothing in a run without one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shared.events.envelope import decode, encode
from shared.log.port import EVENTS, At, Record, inbox, partition_of
from shared.runtime.store import Position, Sent
from shared.testing.simulator.laws import (
    Answer,
    Read,
    check_answer,
    check_answers_agree,
    check_caught_up,
    check_causes,
    check_inbox,
    check_positions,
    check_reads,
    check_same,
    check_seen,
    check_tenants,
)
from shared.testing.simulator.loop import EPOCH
from shared.testing.simulator.stream import Breach, LawBroken, Stream, enforce
from shared.testing.simulator.tabletop import Tabletop
from shared.testing.simulator.toy.domain import ToyRules
from shared.testing.simulator.toy.events import Deposit, Transfer, Withdraw
from shared.testing.simulator.toy.laws import check_ledger, check_settled
from shared.testing.simulator.toy.others import BonusRules
from shared.testing.simulator.toy.store import AccountRow, EntryRow, TransferRow

P = 2
"""Partitions of the runs here."""


def a_run() -> Tabletop:
    """Two contacts on different partitions; deposits, a transfer, a refusal, a bonus."""
    toys = Tabletop([ToyRules(), BonusRules()], P)
    first, second = contacts()
    for number in range(3):
        toys.ask("toy", "acme", first, Deposit(amount=100), f"d{number}", EPOCH + timedelta(seconds=number))
    toys.ask("toy", "acme", first, Transfer(to=second, amount=40), "t", EPOCH + timedelta(seconds=4))
    toys.ask("toy", "acme", first, Withdraw(amount=9999), "w", EPOCH + timedelta(seconds=5))
    toys.ask("toy", "acme", first, Withdraw(amount=9999), "w", EPOCH + timedelta(seconds=6))
    return toys


def contacts() -> tuple[str, str]:
    """The first contacts of partition 0 and of partition 1."""
    names = [f"c{number}" for number in range(20)]
    return tuple(next(name for name in names if partition_of("acme", name, P) == q) for q in (0, 1))  # type: ignore[return-value]


def events_of(toys: Tabletop, q: int = 0) -> list[Record]:
    return list(toys.records[At(EVENTS, q)])


def laws_broken(records: Sequence[Record]) -> list[int]:
    """What the stream shows when partition 0 holds these records."""
    again = [record._replace(offset=offset) for offset, record in enumerate(records)]
    return sorted({breach.law for breach in Stream(P).read(again)})


def changed(record: Record, **changes: Any) -> Record:
    return record._replace(value=encode(replace(decode(record.value or b""), **changes)))


def whole(toys: Tabletop) -> Stream:
    stream = Stream(P)
    for q in range(P):
        assert stream.read(events_of(toys, q)) == []
    return stream


def test_a_good_stream_and_a_repeated_suffix_break_nothing() -> None:
    records = events_of(a_run())
    assert laws_broken(records) == []
    stream = Stream(P)
    again = [record._replace(offset=offset) for offset, record in enumerate([*records, *records[-3:]])]
    assert stream.read(again) == []
    assert stream.repeated == 3
    assert len(stream.accepted[0]) == len(records)


def _lost(records: list[Record]) -> list[Record]:
    return [*records[:1], *records[2:]]


def _swapped(records: list[Record]) -> list[Record]:
    """Two decisions change places, with the sequences of their new places."""
    toy = [index for index, record in enumerate(records) if decode(record.value or b"").producer == "toy.0"]
    one, two = toy[0], toy[-1]
    sequences = [decode(records[index].value or b"").sequence for index in (one, two)]
    records[one], records[two] = (
        changed(records[two], sequence=sequences[0]),
        changed(records[one], sequence=sequences[1]),
    )
    return records


def _misplaced(records: list[Record]) -> list[Record]:
    other = contacts()[1]
    return [changed(records[0], subject=other)._replace(key=f"acme/{other}".encode()), *records[1:]]


def _appended(records: list[Record], **changes: Any) -> list[Record]:
    """One more fact of toy.0, made of its first one."""
    last = max(event.sequence for event in (decode(r.value or b"") for r in records) if event.producer == "toy.0")
    return [*records, changed(records[0], sequence=last + 1, **changes)]


@pytest.mark.parametrize(
    ("law", "plant"),
    [
        (3, _lost),
        (3, _swapped),
        (3, _misplaced),
        (6, lambda records: [*records, changed(records[0], subject="somebody else")]),
        (8, lambda records: [records[0]._replace(key=b"brill/c1"), *records[1:]]),
        (2, lambda records: _appended(records)),
        (2, lambda records: _appended(records, id="another outcome")),
        (3, lambda records: _appended(records, id="x", request_key="", cause="regulars.inbox.toy.1/1/0")),
        (3, lambda records: _appended(records, id="x", request_key="", recorded_at=EPOCH - timedelta(days=1))),
        (2, lambda records: _appended(records, id="x", request_key="", recorded_at=None)),
    ],
    ids=[
        "a lost record",
        "another order",
        "on another partition",
        "a repetition with other bytes",
        "another tenant's key",
        "a fact recorded twice",
        "two outcomes of a request",
        "decided by another partition",
        "now goes back",
        "no recorded time",
    ],
)
def test_the_stream_shows_a_planted_breach(law: int, plant: Callable[[list[Record]], list[Record]]) -> None:
    assert law in laws_broken(plant(events_of(a_run())))


def test_a_decision_on_a_repetition_is_seen() -> None:
    records = events_of(a_run())
    granted = next(i for i, record in enumerate(records) if decode(record.value or b"").type == "bonus.granted.v1")
    repeated = [*records, records[granted]]
    cause = f"{EVENTS}/0/{len(records)}"
    decided = _appended(repeated, id="x", request_key="", cause=cause, recorded_at=EPOCH + timedelta(days=1))
    assert laws_broken(decided) == [6]


def test_a_letter_sent_twice_is_seen_unless_a_rebuild_may_send_it_again() -> None:
    records = events_of(a_run(), 1)
    offer = next(record for record in records if decode(record.value or b"").type == "toy.transfer_offered.v1")
    again = [*records, changed(offer, sequence=2)._replace(offset=len(records))]
    assert [breach.law for breach in Stream(P).read(again)] == [2]
    assert Stream(P, letters_resent=True).read(again) == []


def test_an_answer_is_in_the_log_when_it_is_given() -> None:
    toys = a_run()
    stream, first = whole(toys), toys.records[At(inbox("toy"), 0)][0]
    outcome = stream.outcomes[("toy", "acme", "d0")]
    good = Answer("toy", "acme", "d0", first.at, first.offset, first.value or b"", outcome.id)
    assert check_answer(stream, toys.records, good) == []
    for bad in (
        good._replace(offset=99),
        good._replace(value=b"something else"),
        good._replace(event_id="never recorded"),
        good._replace(key="unknown"),
    ):
        assert [breach.law for breach in check_answer(stream, toys.records, bad)] == [2]
    assert [breach.law for breach in check_answer(Stream(P), toys.records, good)] == [2]


def test_a_repeated_request_has_the_first_answer() -> None:
    answer = Answer("toy", "acme", "k", At(inbox("toy"), 0), 0, b"", "e1", "{}")
    assert check_answers_agree([answer, answer, answer._replace(event_id="")]) == []
    assert [b.law for b in check_answers_agree([answer, answer._replace(event_id="e2")])] == [6]
    assert [b.law for b in check_answers_agree([answer, answer._replace(outcome="{1}")])] == [6]


def test_every_input_has_one_fate() -> None:
    toys = a_run()
    stream, records = whole(toys), toys.records[At(inbox("toy"), 0)]
    assert check_inbox(stream, "toy", records) == []
    lost = changed(records[0], request_key="never decided")._replace(offset=99)
    assert [breach.law for breach in check_inbox(stream, "toy", [*records, lost])] == [2]
    decided_again = changed(records[1], request_key="d0")
    assert [breach.law for breach in check_inbox(stream, "toy", [decided_again])] == [2]


def test_a_decision_has_an_input_of_its_tenant_and_request() -> None:
    toys = a_run()
    stream, at = whole(toys), At(inbox("toy"), 0)
    assert check_causes(stream, toys.records) == []
    for law, records in (
        (2, toys.records[at][:1]),
        (8, [changed(record, tenant="brill") for record in toys.records[at]]),
        (2, [changed(record, request_key="another") for record in toys.records[at]]),
    ):
        assert law in {breach.law for breach in check_causes(stream, {**toys.records, at: records})}


def test_positions_only_grow() -> None:
    before = {0: Position(0, 5, {EVENTS: 7}, {"toy.0": 3}, {1: 4})}
    for after in (
        Position(0, 6, {EVENTS: 8}, {"toy.0": 3, "bonus.0": 1}, {1: 5}),
        before[0],
        replace(before[0], version=6),
    ):
        assert check_positions(before, {0: after}) == []
    for after in (
        Position(0, 6, {EVENTS: 6}, {"toy.0": 3}, {1: 4}),
        Position(0, 6, {EVENTS: 7}, {"toy.0": 2}, {1: 4}),
        Position(0, 6, {EVENTS: 7}, {"toy.0": 3}, {1: 3}),
        Position(0, 6, {}, {"toy.0": 3}, {1: 4}),
        Position(0, 4, {EVENTS: 7}, {"toy.0": 3}, {1: 4}),
        Position(0, 5, {EVENTS: 8}, {"toy.0": 3}, {1: 4}),
    ):
        assert {breach.law for breach in check_positions(before, {0: after})} == {3}
    assert [breach.law for breach in check_positions(before, {})] == [3]


def test_a_position_has_seen_what_stands_below_it() -> None:
    stream = whole(a_run())
    end = stream.ends[0]
    seen: dict[str, int] = {}
    for accepted in stream.accepted[0]:
        seen[accepted.event.producer] = accepted.event.sequence
    right = Position(0, 1, {EVENTS: end}, seen)
    assert check_seen(stream, None, right) == []
    middle = Position(0, 1, {EVENTS: 2}, {"toy.0": 2})
    assert check_seen(stream, middle, right) == []
    for wrong in (
        replace(right, seen={**seen, "toy.0": seen["toy.0"] + 1}),
        replace(right, seen={"toy.0": 1}),
        replace(right, offsets={EVENTS: end + 1}),
    ):
        assert [breach.law for breach in check_seen(stream, None, wrong)] == [3]


def test_a_read_includes_its_token_and_never_goes_back() -> None:
    fine = Read("r1", "acme", "c1", frozenset({"e1"}), frozenset({"e1", "e2"}), 2)
    assert check_reads([fine, fine._replace(reader="r2", version=1), fine._replace(version=3)]) == []
    assert [breach.law for breach in check_reads([fine._replace(saw=frozenset({"e2"}))])] == [7]
    assert [breach.law for breach in check_reads([fine, fine._replace(version=1)])] == [7]


def test_a_tenant_is_shown_nothing_of_another() -> None:
    marks = {"acme": "mark-of-acme", "brill": "mark-of-brill"}
    assert check_tenants(marks, [("acme", {"note": "mark-of-acme"}), ("brill", "nothing")]) == []
    assert [breach.law for breach in check_tenants(marks, [("acme", ["mark-of-brill-1"])])] == [8]


def test_two_states_are_compared_row_by_row() -> None:
    account = AccountRow("acme", "c1", 5)
    assert check_same(4, {"accounts": [account], "empty": []}, {"accounts": [account]}) == []
    for other in ([], [account, account], [account._replace(available=6)]):
        assert [breach.law for breach in check_same(4, {"accounts": [account]}, {"accounts": other})] == [4]
    more = {"accounts": [account._replace(facts=9)]}
    assert check_same(5, {"accounts": [account]}, more, besides={"accounts": ["facts"]}) == []
    assert check_same(5, {"accounts": [account]}, {}, besides={"accounts": ["*"]}) == []


def test_lag_is_seen_on_both_topics_and_in_the_outbox() -> None:
    ends = {At(inbox("toy"), 0): 3, At(EVENTS, 0): 5}
    position = Position(0, 9, {inbox("toy"): 3, EVENTS: 5}, {}, {0: 4})
    sent = {0: {0: Sent(4, 5)}}
    assert check_caught_up("toy", inbox("toy"), 1, {0: position}, sent, ends) == []
    for late in (
        check_caught_up("toy", inbox("toy"), 1, {0: position}, sent, {**ends, At(inbox("toy"), 0): 4}),
        check_caught_up("toy", inbox("toy"), 1, {0: position}, sent, {**ends, At(EVENTS, 0): 6}),
        check_caught_up("toy", inbox("toy"), 1, {0: position}, {0: {0: Sent(3, 4)}}, ends),
        check_caught_up("toy", inbox("toy"), 1, {0: position}, {}, ends),
    ):
        assert [breach.law for breach in late] == [9]
    assert len(check_caught_up("toy", inbox("toy"), 1, {}, {}, ends)) == 2


LINES = (EntryRow("acme", "c1", "e1", "available", 10), EntryRow("acme", "c1", "e1", "outside", -10))


@pytest.mark.parametrize(
    ("law", "account", "entries"),
    [
        (1, AccountRow("acme", "c1", 11), LINES),
        (1, AccountRow("acme", "c1", 10), LINES[:1]),
        (1, AccountRow("acme", "c2"), LINES),
        (
            1,
            AccountRow("acme", "c1", 5),
            (
                EntryRow("acme", "c1", "e0", "available", -5),
                EntryRow("acme", "c1", "e0", "outside", 5),
                *LINES,
            ),
        ),
        (6, AccountRow("acme", "c1", 20), (*LINES, *LINES)),
    ],
    ids=["a balance that no entry explains", "one-sided", "no account", "negative in between", "posted twice"],
)
def test_the_ledger_shows_a_planted_breach(law: int, account: AccountRow, entries: Sequence[EntryRow]) -> None:
    assert check_ledger([AccountRow("acme", "c1", 10)], LINES) == []
    assert law in {breach.law for breach in check_ledger([account], entries)}


def test_a_transfer_without_its_answer_is_seen_at_rest() -> None:
    sent = TransferRow("acme", "c1", "t1", "sent", "c2", 40, "taken")
    received = TransferRow("acme", "c2", "t1", "received", "c1", 40, "taken")
    assert check_settled([], [], [sent, received]) == []
    for pair in ([sent], [sent._replace(state="open"), received], [sent._replace(state="declined"), received]):
        assert [breach.law for breach in check_settled([], [], pair)] == [2]
    assert [b.law for b in check_settled([AccountRow("acme", "c1", transit=1)], [], [])] == [9]
    assert [b.law for b in check_settled([], [EntryRow("acme", "c2", "e", "clearing", -1)], [])] == [1]


def test_broken_laws_are_listed() -> None:
    enforce([])
    with pytest.raises(LawBroken, match="2 breaches at step 7\n  law 1: lost\n  law 2: twice"):
        enforce([Breach(1, "lost"), Breach(2, "twice")], "at step 7")
