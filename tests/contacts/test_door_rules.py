"""The door's rules, one sentence each."""

from typing import Any

import pytest

from services.contacts.door.domain import DEFERRED_MAX
from services.contacts.door.rules import DoorRules, new_contact
from services.contacts.door.store import CONFLICTS, IDENTITIES, ORDER_ENTRIES, RECEIPTS
from shared.events.envelope import Event, encode
from shared.log.port import BATCH_BYTES_MAX
from tests.contacts.door_driver import (
    NOW,
    SOURCE,
    TENANT,
    Kept,
    arrived,
    keyed,
    line,
    purchase,
    refund,
    sent,
    types,
)

LI = {"reference": "C-17", "email": "Li@Example.com", "phone": "+86 138-0013-8000"}


@pytest.fixture
def door() -> Kept:
    return Kept(DoorRules(keyed))


def deliver(door: Kept, event_type: str, data: dict[str, Any], id: str = "e1", tenant: str = TENANT) -> list[Event]:
    return door.ask(arrived(sent(event_type, data, id), tenant))


def buy(door: Kept, id: str = "e1", order_id: str = "1001", customer: object = LI, **more: object) -> list[Event]:
    return deliver(door, "purchase.completed", purchase(order_id, customer=customer, **more), id)


def give_back(door: Kept, refund_id: str = "r1", id: str = "e2", **more: Any) -> list[Event]:
    return deliver(door, "purchase.refunded", refund(refund_id, **more), id)


# ---- who is this


def test_a_first_purchase_makes_the_contact_known_by_all_it_is_named_by(door: Kept) -> None:
    bought, identified = buy(door)
    assert types([bought, identified]) == ["purchase.completed.v1", "contact.identified.v1"]
    assert bought.subject == identified.subject == new_contact(bought.cause)
    assert [(i.kind, i.value) for i in identified.data.identities] == [
        ("reference", f"{SOURCE} C-17"),
        ("phone", "+8613800138000"),
        ("email", "li@example.com"),
    ]
    assert all(i.hash == keyed(TENANT, i.kind, i.value) for i in identified.data.identities)


def test_a_purchase_keeps_its_senders_source_id_and_time(door: Kept) -> None:
    bought, identified = buy(door)
    assert (bought.source, bought.id, bought.time.isoformat()) == (SOURCE, "e1", "2026-01-02T10:00:00+00:00")
    assert (identified.source, bought.recorded_at) == ("/door", NOW)


@pytest.mark.parametrize("name", ["reference", "email", "phone"])
def test_a_contact_is_found_by_any_identity_it_is_known_by(door: Kept, name: str) -> None:
    first = buy(door)[0]
    again = buy(door, "e2", "1002", {name: LI[name]})
    assert types(again) == ["purchase.completed.v1"]
    assert again[0].subject == first.subject


def test_only_a_new_identity_of_a_known_contact_is_recorded(door: Kept) -> None:
    first = buy(door, customer={"reference": "C-17"})[0]
    _, identified = buy(door, "e2", "1002", {"reference": "C-17", "email": "li@example.com"})
    assert [i.kind for i in identified.data.identities] == ["email"]
    assert identified.subject == first.subject


def test_identities_of_several_contacts_are_decided_by_the_strongest_and_not_merged(door: Kept) -> None:
    by_email = buy(door, "e1", "1", {"email": "li@example.com"})[0].subject
    by_phone = buy(door, "e2", "2", {"phone": "+8613800138000"})[0].subject
    by_reference = buy(door, "e3", "3", {"reference": "C-17"})[0].subject
    assert len({by_email, by_phone, by_reference}) == 3
    assert [(f.type, f.subject) for f in buy(door, "e4", "4")] == [("purchase.completed.v1", by_reference)]
    weaker = buy(door, "e5", "5", {"email": "li@example.com", "phone": "+8613800138000"})
    assert [(f.type, f.subject) for f in weaker] == [("purchase.completed.v1", by_phone)]
    assert len(door.all(IDENTITIES)) == 3


def test_a_customer_number_is_known_within_its_source_only(door: Kept) -> None:
    here = buy(door, customer={"reference": "C-17"})[0]
    event = sent("purchase.completed", purchase("9", customer={"reference": "C-17"}), source="https://other.example/")
    assert door.ask(arrived(event))[0].subject != here.subject


def test_tenants_share_nothing(door: Kept) -> None:
    ours = buy(door)
    data = purchase(customer=LI)
    theirs = deliver(door, "purchase.completed", data, tenant="beta")
    assert types(theirs) == types(ours)
    assert theirs[0].subject != ours[0].subject
    assert theirs[0].data.turn == 1


# ---- seen before?


def test_the_same_delivery_again_changes_nothing(door: Kept) -> None:
    buy(door)
    before = {name: dict(rows) for name, rows in door.tables.items()}
    assert buy(door) == []
    assert door.tables == before


def test_another_body_under_the_same_id_is_a_recorded_conflict_and_keeps_the_receipt(door: Kept) -> None:
    first = buy(door)[0]
    receipts = door.all(RECEIPTS)
    (refused,) = buy(door, store="Bund")
    assert (refused.type, refused.data.reason, refused.subject) == ("delivery.refused.v1", "conflict", first.subject)
    assert (refused.source, refused.id) == (SOURCE, "e1")
    assert door.all(RECEIPTS) == receipts
    assert [row.body_hash for row in door.all(CONFLICTS)] == [refused.data.body_hash]
    assert buy(door, store="Bund") == [], "one conflict per body"
    assert buy(door) == [], "the first body is still the recorded one"
    assert len(buy(door, store="Gubei")) == 1


def test_an_order_reported_twice_earns_once(door: Kept) -> None:
    first = buy(door)[0]
    (refused,) = buy(door, "e2")
    assert (refused.data.reason, refused.subject) == ("ignored-duplicate", first.subject)
    (amended,) = buy(door, "e3", store="Bund")
    assert amended.data.reason == "order-already-known"
    assert len(door.all(ORDER_ENTRIES)) == 1
    assert [row.reason for row in door.all(RECEIPTS)] == ["", "ignored-duplicate", "order-already-known"]


def test_an_order_reported_again_for_somebody_else_is_no_duplicate(door: Kept) -> None:
    buy(door)
    buy(door, "e2", "1002", {"reference": "C-18"})
    (refused,) = buy(door, "e3", "1001", {"reference": "C-18"})
    assert refused.data.reason == "order-already-known"


# ---- refunds


def test_a_refund_of_a_known_order_is_about_its_contact_whoever_sends_it(door: Kept) -> None:
    bought = buy(door)[0]
    (returned,) = give_back(door, customer={"reference": "somebody else"})
    assert (returned.type, returned.subject, returned.data.turn) == ("purchase.refunded.v1", bought.subject, 2)
    assert not returned.data.released


def test_a_refund_counts_once_under_however_many_ids(door: Kept) -> None:
    buy(door)
    give_back(door)
    assert give_back(door)[0:] == []
    assert give_back(door, id="e3")[0].data.reason == "ignored-duplicate"
    assert give_back(door, id="e4", quantity=2)[0].data.reason == "refund-already-known"
    assert [entry.kind for entry in door.all(ORDER_ENTRIES)] == ["purchase", "refund"]


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"quantity": 3}, "refund-exceeds-order"),
        ({"amount_minor": 2951}, "refund-exceeds-order"),
        ({"currency": "CNY"}, "currency-differs"),
        ({"lines": [{"line_id": "9", "quantity": 1, "amount_minor": 0}]}, "line-unknown"),
    ],
)
def test_a_refund_that_does_not_fit_its_order_is_refused_with_the_reason(
    door: Kept, stated: dict[str, Any], reason: str
) -> None:
    bought = buy(door)[0]
    (refused,) = (
        give_back(door, **stated)
        if "lines" not in stated
        else deliver(door, "purchase.refunded", {**refund(), **stated}, "e2")
    )
    assert (refused.type, refused.data.reason, refused.subject) == ("delivery.refused.v1", reason, bought.subject)
    assert door.all(RECEIPTS)[1].reason == reason
    assert types(give_back(door, id="e3")) == ["purchase.refunded.v1"], "corrected, under the same refund_id"


def test_refunds_together_return_no_more_than_was_bought(door: Kept) -> None:
    buy(door)
    assert types(give_back(door, "r1", "e2") + give_back(door, "r2", "e3")) == ["purchase.refunded.v1"] * 2
    (refused,) = give_back(door, "r3", "e4", amount_minor=0)
    assert refused.data.reason == "refund-exceeds-order"


def test_a_refund_before_its_order_waits_and_the_purchase_releases_it(door: Kept) -> None:
    asked = arrived(sent("purchase.refunded", refund(), "e0", time="2026-01-01T09:00:00+08:00"))
    (deferred,) = door.ask(asked)
    assert (deferred.type, deferred.subject) == ("refund.deferred.v1", asked.subject)
    assert door.ask(asked) == []
    bought, returned, _ = buy(door)
    assert types([bought, returned]) == ["purchase.completed.v1", "purchase.refunded.v1"]
    assert (returned.source, returned.id, returned.subject) == (SOURCE, "e0", bought.subject)
    assert returned.time.isoformat() == "2026-01-01T01:00:00+00:00"
    assert returned.data.released
    assert [entry.turn for entry in door.all(ORDER_ENTRIES)] == [1, 2, 3]
    assert give_back(door, id="e9")[0].data.reason == "ignored-duplicate", "it counts once"
    assert door.ask(asked) == []


def test_a_deferred_refund_of_a_known_customer_is_about_that_contact(door: Kept) -> None:
    known = buy(door, order_id="1")[0].subject
    (deferred,) = give_back(door, customer={"email": "li@example.com"})
    assert deferred.subject == known
    assert types(give_back(door, "r2", "e3", customer={"email": "new@example.com"})) == ["refund.deferred.v1"]
    assert len(door.all(IDENTITIES)) == 3, "a refund makes nobody known"


def test_waiting_refunds_are_released_in_order_of_arrival_and_refused_where_they_do_not_fit(door: Kept) -> None:
    give_back(door, "r1", "e1", quantity=2)
    give_back(door, "r2", "e2", quantity=1)
    give_back(door, "r3", "e3", currency="CNY")
    facts = buy(door, "e9")
    assert types(facts) == [
        "purchase.completed.v1",
        "purchase.refunded.v1",
        "refund.refused.v1",
        "refund.refused.v1",
        "contact.identified.v1",
    ]
    assert [(f.id, f.data.reason) for f in facts[2:4]] == [("e2", "refund-exceeds-order"), ("e3", "currency-differs")]
    assert len({f.subject for f in facts}) == 1
    assert types(give_back(door, "r2", "e10")) == ["delivery.refused.v1"], "nothing is left to return"


def test_a_refund_id_waits_once(door: Kept) -> None:
    give_back(door, "r1", "e1")
    assert give_back(door, "r1", "e2")[0].data.reason == "ignored-duplicate"
    assert give_back(door, "r1", "e3", quantity=2)[0].data.reason == "refund-already-known"


def test_refunds_that_wait_for_one_order_are_bounded(door: Kept) -> None:
    for number in range(DEFERRED_MAX):
        assert types(give_back(door, f"r{number}", f"e{number}")) == ["refund.deferred.v1"]
    assert give_back(door, "one-more", "one-more")[0].data.reason == "too-many-deferred"


def test_the_largest_order_with_the_largest_waiting_refunds_fits_into_one_produced_batch(door: Kept) -> None:
    deferred: list[str] = []
    for number in range(DEFERRED_MAX):
        lines = [{"line_id": f"{'界' * 12}{n}", "quantity": 1, "amount_minor": 1} for n in range(500)]
        data = {**refund("界" * 190 + str(number)), "lines": lines}
        deferred += types(deliver(door, "purchase.refunded", data, "界" * 190 + str(number)))
    assert set(deferred) == {"refund.deferred.v1", "delivery.refused.v1"}
    lines = [line(f"{'界' * 12}{n}", 9, 9, category="界" * 128, brand="界" * 128) for n in range(500)]
    facts = deliver(door, "purchase.completed", {**purchase("1001", *lines), "customer": LI}, "big")
    assert types(facts).count("purchase.refunded.v1") == deferred.count("refund.deferred.v1") > 1
    assert 0.5 * BATCH_BYTES_MAX < sum(len(encode(fact)) + 300 for fact in facts) < BATCH_BYTES_MAX


# ---- events of a tenant's own


def test_an_event_of_a_tenants_own_type_is_recorded_by_name(door: Kept) -> None:
    data = {"name": "store.visited", "fields": {"minutes": 12}, "customer": LI}
    recorded, identified = deliver(door, "custom.recorded", data)
    assert (recorded.type, recorded.data.name, recorded.data.fields) == (
        "custom.recorded.v1",
        "store.visited",
        {"minutes": 12},
    )
    named = deliver(door, "com.acme.store.visited", {"minutes": 3, "customer": {"reference": "C-17"}}, "e2")
    assert (named[0].data.name, named[0].data.fields) == ("com.acme.store.visited", {"minutes": 3})
    assert named[0].subject == identified.subject
