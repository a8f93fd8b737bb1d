"""The door's tables are shared by its partitions and folded from all of them: any order of folding gives the same rows.

Two producers' facts meet on the stream in any order, so this holds for every permutation, not only for those that keep
each partition's order.
"""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.contacts.door.domain import order_of
from services.contacts.door.rules import DoorRules
from services.contacts.door.store import IDENTITIES, ORDER_ENTRIES, RECEIPTS
from tests.contacts.door_driver import SOURCE, Kept, arrived, keyed, purchase, refund, sent

customers = st.fixed_dictionaries(
    {"reference": st.sampled_from(["C-1", "C-2"])},
    optional={"email": st.sampled_from(["a@x.example", "b@x.example"]), "phone": st.just("+8613800138000")},
)
orders = st.sampled_from(["1", "2"])


@st.composite
def deliveries(draw: st.DrawFn) -> dict[str, Any]:
    """Few ids, orders and people, so that duplicates, conflicts, amendments and early refunds are common."""
    event_id, order_id = draw(st.sampled_from(["e1", "e2", "e3", "e4", "e5", "e6"])), draw(orders)
    match draw(st.sampled_from(["purchase", "refund", "refund", "custom"])):
        case "purchase":
            data = purchase(order_id, store=draw(st.sampled_from(["", "Bund"])), customer=draw(customers))
            return sent("purchase.completed", data, event_id)
        case "refund":
            refund_id, quantity = draw(st.sampled_from(["r1", "r2", "r3"])), draw(st.integers(1, 2))
            data = {**refund(refund_id, quantity), "order_id": order_id}
            if draw(st.booleans()):
                data["customer"] = draw(customers)
            return sent("purchase.refunded", data, event_id)
        case _:
            return sent("com.acme.visit", {"customer": draw(customers)}, event_id)


@settings(max_examples=150, deadline=None)
@given(st.lists(deliveries(), min_size=2, max_size=14), st.data())
def test_any_order_of_folding_gives_the_rows_of_the_decisions(
    events: list[dict[str, Any]], choices: st.DataObject
) -> None:
    live = Kept(DoorRules(keyed))
    for event in events:
        live.ask(arrived(event))
    rebuilt = Kept(DoorRules(keyed))
    for fact in choices.draw(st.permutations(live.facts)):
        rebuilt.fold(fact)
    assert rebuilt.tables == live.tables


@settings(max_examples=150, deadline=None)
@given(st.lists(deliveries(), min_size=1, max_size=20))
def test_every_delivery_has_one_receipt_and_no_order_gives_back_more_than_it_took(events: list[dict[str, Any]]) -> None:
    door = Kept(DoorRules(keyed))
    for event in events:
        door.ask(arrived(event))
    assert {(row.source, row.id) for row in door.all(RECEIPTS)} == {(SOURCE, event["id"]) for event in events}
    assert len({row.contact for row in door.all(IDENTITIES)}) <= len(events)
    entries = door.all(ORDER_ENTRIES)
    for order_id in ("1", "2"):
        own = [entry for entry in entries if entry.order_id == order_id]
        order = order_of(own)
        assert [entry.turn for entry in own] == list(range(1, len(own) + 1)), "turns have no holes"
        assert sum(entry.kind == "purchase" for entry in own) <= 1
        assert len({entry.refund_id for entry in order.refunds}) == len(order.refunds)
        if order.purchase is None:
            assert not order.refunds
        else:
            assert not order.waiting
            assert {entry.subject for entry in (*order.refunds, order.purchase)} == {order.purchase.subject}
            assert sum(2 if '"1",2' in entry.lines else 1 for entry in order.refunds) <= 2


@settings(max_examples=300, deadline=None)
@given(st.lists(deliveries(), max_size=8), deliveries(), deliveries())
def test_two_partitions_deciding_at_once_end_as_one_after_the_other(
    before: list[dict[str, Any]], one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Both decide on the same rows. Where their writes collide the second decides again; where they do not, what came
    of it must be what some order of the two gives: nothing that one read unwritten may matter to the other."""

    def started() -> Kept:
        door = Kept(DoorRules(keyed))
        for event in before:
            door.ask(arrived(event))
        return door

    def in_turn(*inputs: tuple[dict[str, Any], str]) -> dict[str, Any]:
        door = started()
        for event, cause in inputs:
            assert door.save(door.decide(arrived(event), cause)[0])
        return door.tables

    door = started()
    first, second = door.decide(arrived(one), "q1")[0], door.decide(arrived(other), "q2")[0]
    assert door.save(first)
    if not door.save(second):
        assert door.save(door.decide(arrived(other), "q2")[0])
    assert door.tables in (in_turn((one, "q1"), (other, "q2")), in_turn((other, "q2"), (one, "q1")))
