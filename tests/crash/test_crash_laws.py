"""The checks of a crash round find what they are there for: each is shown a stream that breaks it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.events.envelope import Event
from tests.crash import laws
from tests.crash.acts import POINTS, Act, Actor, Switch, Tally, Verb
from tests.crash.cards import deck_of
from tests.crash.notes import Answer, EventNote, Notebook, RequestNote
from tests.crash.stream import Stream

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SENT = {
    "source": "https://shop.example",
    "id": "e-1",
    "type": "purchase.completed",
    "data": {
        "customer": {"reference": "C-1"},
        "order_id": "1001",
        "lines": [{"line_id": "1", "sku": "CD-1", "quantity": 1, "amount_minor": 900}],
    },
}


def recorded(kind: str, data: dict[str, Any], **said: Any) -> Event:
    return replace(Event("e-1", "https://shop.example", kind, "acme", "c1", NOW, data, "door.1", 1), **said)


PURCHASE = recorded("purchase.completed.v1", {"order_id": "1001", "lines": SENT["data"]["lines"], "store": ""})  # type: ignore[index]
ABOUT = {"event_source": "https://shop.example", "event_id": "e-1"}
EVALUATED = recorded("rules.evaluated.v1", ABOUT, id="x", source="/points", producer="points.1")
EARNED = replace(EVALUATED, type="points.earned.v1", id="y")


def told(*answers: Answer) -> Notebook:
    return Notebook(events={("https://shop.example", "e-1"): EventNote([SENT], list(answers))})


RECORDED = Answer(200, {"status": "recorded"})


def test_what_was_recorded_once_as_it_was_sent_is_no_fault() -> None:
    stream = Stream([PURCHASE, EARNED])
    assert not list(laws.event_faults(told(Answer(202, {"status": "accepted"}), RECORDED), stream))
    assert not list(laws.effect_faults(stream))


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([], id="lost"),
        pytest.param([PURCHASE, replace(PURCHASE, sequence=2)], id="twice"),
        pytest.param([replace(PURCHASE, data={**PURCHASE.data, "order_id": "1002"})], id="another order"),
        pytest.param([replace(PURCHASE, data={**PURCHASE.data, "store": "7"})], id="the contradiction's content"),
        pytest.param(
            [replace(PURCHASE, type="delivery.refused.v1", data={"reason": "x"})], id="refused, told recorded"
        ),
        pytest.param(
            [PURCHASE, replace(PURCHASE, type="delivery.refused.v1", data={"reason": "conflict"})], id="conflict"
        ),
    ],
)
def test_a_fault_of_an_acknowledged_event_is_found(events: list[Event]) -> None:
    assert list(laws.event_faults(told(RECORDED), Stream(events)))


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([PURCHASE], id="never put to the rules"),
        pytest.param([PURCHASE, EVALUATED, EVALUATED], id="put to the rules twice"),
        pytest.param([PURCHASE, EARNED, EARNED], id="earned twice"),
        pytest.param([PURCHASE, EVALUATED, EARNED], id="earned nothing, and earned"),
        pytest.param([EVALUATED], id="never happened"),
        pytest.param([PURCHASE, PURCHASE, EVALUATED], id="two facts"),
    ],
)
def test_an_effect_that_is_not_one_is_found(events: list[Event]) -> None:
    assert list(laws.effect_faults(Stream(events)))


REDEEMED = recorded(
    "points.redeemed.v1", {"wallet": "points", "points": 100}, producer="points.1", request_key="k", source="/points"
)


def asked(*answers: Answer) -> Notebook:
    return Notebook(requests={"k": RequestNote("points", "/v1/redemptions", {}, list(answers))})


DONE = Answer(201, {"wallet": "points", "points": 100})


def test_an_outcome_that_was_told_alike_each_time_is_no_fault() -> None:
    assert not list(laws.request_faults(asked(DONE, DONE), Stream([REDEEMED])))


@pytest.mark.parametrize(
    ("notebook", "events"),
    [
        pytest.param(asked(DONE), [], id="lost"),
        pytest.param(asked(DONE), [REDEEMED, REDEEMED], id="twice"),
        pytest.param(asked(DONE), [replace(REDEEMED, type="request.refused.v1", data={"reason": "x"})], id="refused"),
        pytest.param(asked(Answer(409, {"type": "/problems/x"})), [REDEEMED], id="told no, done all the same"),
        pytest.param(asked(Answer(201, {"points": 200})), [REDEEMED], id="another figure"),
        pytest.param(asked(DONE, Answer(201, {"points": 100})), [REDEEMED], id="told in two ways"),
    ],
)
def test_a_fault_of_an_answered_request_is_found(notebook: Notebook, events: list[Event]) -> None:
    assert list(laws.request_faults(notebook, Stream(events)))


@pytest.mark.parametrize("pair", range(5))
def test_two_rounds_hold_every_card(pair: int) -> None:
    cards = []
    for seed in (2 * pair, 2 * pair + 1):
        deck = deck_of(seed)
        while (card := deck.deal(may_stop=True, acts_only=False)) is not None:
            cards.append(card)
    names = {act.name for card in cards for act in card.acts}
    assert {f"kill {point}" for point in POINTS} <= names
    assert {"stop batch.2", "stop batch.6", "stop relay.append"} <= names
    assert any(card.kill_after is not None for card in cards)
    assert any(card.stop_after is not None for card in cards)


async def test_a_process_acts_at_its_pass_and_its_counters_are_in_the_file_before(tmp_path: Any) -> None:
    done: list[tuple[Verb, int]] = []
    tally, switch = Tally(tmp_path / "tally"), Switch(tmp_path / "switch")
    reader = Tally(tmp_path / "tally")

    def do(verb: Verb) -> None:
        done.append((verb, reader.read()["kill batch.4"]))

    actor = Actor((Act("kill", "batch.4", 2),), tally, switch, do)
    actor.counters = {"suffix_dropped": 3}
    await actor.point("batch.4")
    await actor.point("batch.4")
    assert not done, "nobody acts before all is armed"
    switch.turn(True)
    await actor.point("batch.4")
    await actor.point("batch.6")
    await actor.point("batch.4")
    assert done == [("kill", 1)]
    assert reader.read()["suffix_dropped"] == 3
    for opened in (tally, switch, reader):
        opened.close()
