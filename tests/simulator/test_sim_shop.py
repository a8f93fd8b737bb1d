"""Door, contacts and points in the simulator: what a run shows, and that their own laws find what is wrong."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.points.ledger.store import AccountRow, EntryRow, LotRow
from shared.events.door import DeliveryRefused, PurchaseCompleted, PurchaseRefunded
from shared.events.envelope import Event
from shared.testing.simulator.loop import EPOCH
from shared.testing.simulator.plan import Plan
from shared.testing.simulator.stream import Accepted, Breach
from tests.simulator.shop.laws import Books, Deliveries, check_evaluated, check_private
from tests.simulator.shop.run import run_seed

CALM = Plan(7, partitions=2, batch_max=7, requests=150, yield_chance=0.2)


def test_a_run_has_seen_what_the_laws_are_about() -> None:
    outcome = run_seed(7, plan=replace(CALM, losses_max=1))
    seen = {name for name, count in outcome.counters.items() if count}
    assert {
        *("purchase.completed.v1", "purchase.refunded.v1", "refund.deferred.v1", "delivery.refused.v1"),
        *("contact.identified.v1", "custom.recorded.v1", "clock.advanced.v1", "program.published.v1"),
        *("points.earned.v1", "points.redeemed.v1", "points.adjusted.v1", "points.reversed.v1", "points.expired.v1"),
        *("tier.changed.v1", "request.refused.v1", "parked", "duplicate_requests"),
    } <= seen
    assert outcome.answers > 50
    assert outcome.rows["points"]["lots"]


def entry(number: int, source: str, destination: str, points: int) -> EntryRow:
    return EntryRow(
        tenant="acme",
        contact="c1",
        number=number,
        wallet="points",
        source=source,
        destination=destination,
        points=points,
        lot=1,
        program="main",
        version=1,
        rule="base",
        line_id="",
        channel="",
        order_id="",
        event_source="",
        event_id="",
        fact_id="f",
        fact_type="points.earned.v1",
        reference="",
        by="",
        effective_at=EPOCH,
        recorded_at=EPOCH,
        cause="i/0/0",
    )


def lot(remaining: int) -> LotRow:
    return LotRow("acme", "c1", 1, "points", False, "main", 1, "base", 10, remaining, EPOCH, None)


EARNED = entry(1, "program:issued", "member:available", 10)
SPENT = entry(2, "member:available", "program:redeemed", 4)
ACCOUNT = AccountRow("acme", "c1", "points", available=6, issued=10, redeemed=4)


def booked(entries: Sequence[EntryRow], account: AccountRow, remaining: int) -> list[int]:
    found = Books().look(entries, {("acme", "c1", "points"): account}, [lot(remaining)])
    return sorted({breach.law for breach in found})


def test_books_that_balance_break_nothing() -> None:
    assert booked([EARNED, SPENT], ACCOUNT, 6) == []


@pytest.mark.parametrize(
    ("entries", "account", "remaining"),
    [
        ([EARNED, SPENT], ACCOUNT._replace(available=7), 7),
        ([EARNED, SPENT], ACCOUNT._replace(redeemed=5), 6),
        ([EARNED, SPENT], ACCOUNT, 5),
        ([EARNED, SPENT._replace(number=3)], ACCOUNT, 6),
        ([SPENT._replace(number=1), EARNED._replace(number=2)], ACCOUNT, 6),
        ([EARNED, SPENT._replace(points=-4)], ACCOUNT, 6),
    ],
    ids=["balance", "column", "lots", "a gap", "below 0 in between", "a posting below 0"],
)
def test_books_that_do_not_balance_are_found(entries: list[EntryRow], account: AccountRow, remaining: int) -> None:
    assert booked(entries, account, remaining) == [1]


LINE = {"line_id": "0", "sku": "s", "quantity": 1, "amount_minor": 100}
ORDER = {"channel": "web", "order_id": "o1", "currency": "USD", "lines": [LINE], "body_hash": "h"}


def fact(name: str, data: Any, type_name: str, nth: int = 0) -> Accepted:
    event = Event(name, "https://shop.example", type_name, "acme", "c1", EPOCH, data, "door.0", nth + 1, f"i/0/{nth}")
    return Accepted(0, nth, replace(event, recorded_at=EPOCH + timedelta(seconds=nth)))


def bought(name: str, nth: int = 0) -> Accepted:
    return fact(name, PurchaseCompleted.model_validate(ORDER), "purchase.completed.v1", nth)


def returned(name: str, nth: int, *, quantity: int = 1, released: bool = False) -> Accepted:
    data = {**ORDER, "refund_id": "r", "released": released, "body_hash": "r"}
    data["lines"] = [{"line_id": "0", "quantity": quantity, "amount_minor": 1}]
    return fact(name, PurchaseRefunded.model_validate(data), "purchase.refunded.v1", nth)


def said(*facts: Accepted) -> list[Breach]:
    deliveries = Deliveries()
    return deliveries.look({str(nth): each for nth, each in enumerate(facts)}) + deliveries.check_orders()


def test_an_order_and_its_refund_break_nothing() -> None:
    refused = DeliveryRefused(reason="conflict", detail="", body_hash="other")
    assert said(bought("e1"), returned("e2", 1), fact("e1", refused, "delivery.refused.v1", 2)) == []


@pytest.mark.parametrize(
    "facts",
    [
        (bought("e1"), bought("e1", 1)),
        (bought("e1"), bought("e2", 1)),
        (bought("e1"), returned("e2", 1), returned("e3", 2)),
        (returned("e2", 1),),
        (bought("e1"), returned("e2", 1, quantity=2)),
        (bought("e1"), returned("e2", 1, released=True)),
    ],
    ids=["one id twice", "one order twice", "one refund twice", "no order", "more than bought", "never deferred"],
)
def test_what_the_door_may_not_say_is_found(facts: tuple[Accepted, ...]) -> None:
    assert {breach.law for breach in said(*facts)} <= {2, 6}
    assert said(*facts)


def test_an_event_that_was_never_put_to_the_rules_is_found() -> None:
    assert [breach.law for breach in check_evaluated([bought("e1")], [])] == [2]


def test_personal_data_in_the_open_is_found() -> None:
    assert check_private(["li@"], [("a row", b"li@example.com"), ("another", b"sealed.v1.k.x")])[0].law == 8
