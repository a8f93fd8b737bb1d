"""The toy worker's rules by themselves: one sentence a rule, the fold law, the ledger, and work across contacts."""

from datetime import timedelta
from typing import Any

import pytest

from shared.events.catalogue import Data
from shared.events.contacts import TENANT_SUBJECT, AdvanceClock, CreateTenant
from shared.events.envelope import Event
from shared.log.port import EVENTS, inbox, partition_of
from shared.runtime.rules import Rules
from shared.testing.simulator.laws import (
    check_causes,
    check_inbox,
    check_same,
    check_tenants,
    rows_by_tenant,
)
from shared.testing.simulator.loop import EPOCH
from shared.testing.simulator.refold import refold
from shared.testing.simulator.stream import Stream, enforce
from shared.testing.simulator.tabletop import Tabletop
from shared.testing.simulator.toy.domain import DECLINED_OVER, Stumbled, ToyRules
from shared.testing.simulator.toy.events import Deposit, Gift, Nickname, SetRate, Stumble, Transfer, Withdraw
from shared.testing.simulator.toy.laws import check_ledger, check_settled
from shared.testing.simulator.toy.others import BonusRules, ClockRules
from shared.testing.simulator.toy.store import ACCOUNTS, AccountRow
from shared.testing.simulator.toy.work import MARKS, opening, work_of


class Toys(Tabletop):
    """The three toy workers; asks in the name of one tenant, one second after the other."""

    def __init__(self, partitions: int = 12) -> None:
        super().__init__([ToyRules(), BonusRules(), ClockRules()], partitions)
        self.now = EPOCH
        self._keys = 0

    def when(self, subject: str, data: Data, *, worker: str = "toy", tenant: str = "acme", key: str = "") -> Event:
        self._keys += 1
        self.now += timedelta(seconds=1)
        return self.ask(worker, tenant, subject, data, key or f"key-{self._keys}", self.now)

    def account(self, subject: str, tenant: str = "acme") -> AccountRow:
        found = self.rows["toy"].get(ACCOUNTS, (tenant, subject))
        return found or AccountRow(tenant, subject)

    def read(self) -> Stream:
        stream = Stream(self.partitions)
        for at, records in self.records.items():
            if at.topic == EVENTS:
                enforce(stream.read(records))
        return stream


def rows_of(toys: Tabletop, rules: Rules) -> dict[str, list[tuple[Any, ...]]]:
    return toys.rows[rules.worker].folded()


def test_a_deposit_can_be_spent_at_once_and_is_posted_twice() -> None:
    toys = Toys()
    toys.when("c1", Deposit(amount=100))
    assert toys.account("c1") == AccountRow("acme", "c1", available=100, facts=1)
    assert sorted(row[3:] for row in rows_of(toys, ToyRules())["entries"]) == [("available", 100), ("outside", -100)]


def test_a_withdrawal_of_more_than_there_is_is_refused_and_says_how_much_there_is() -> None:
    toys = Toys()
    toys.when("c1", Deposit(amount=10))
    outcome = toys.when("c1", Withdraw(amount=11))
    assert outcome.type == "request.refused.v1"
    assert outcome.data.facts == {"available": 10, "asked": 11}
    assert toys.when("c1", Withdraw(amount=10)).type == "toy.withdrawn.v1"
    assert toys.account("c1").available == 0


def test_a_held_deposit_matures_at_its_instant_and_not_before() -> None:
    toys = Toys()
    toys.when("c1", Deposit(amount=50, hold_seconds=60))
    matures_at = toys.now + timedelta(seconds=60)
    toys.settle(matures_at - timedelta(microseconds=1))
    assert toys.account("c1").pending == 50
    toys.settle(matures_at + timedelta(days=1))
    assert toys.account("c1")[2:5] == (50, 0, 0)
    matured = [event for event in toys.stream() if event.type == "toy.matured.v1"]
    assert [event.recorded_at for event in matured] == [matures_at]


def test_what_is_due_is_settled_before_a_request_is_decided() -> None:
    toys = Toys()
    toys.when("c1", Deposit(amount=50, hold_seconds=60))
    toys.now += timedelta(seconds=60)
    assert toys.when("c1", Withdraw(amount=50)).type == "toy.withdrawn.v1"


@pytest.mark.parametrize("partitions", [1, 12])
@pytest.mark.parametrize("to", ["c1", "c2"])
def test_a_transfer_arrives_and_its_sender_knows(partitions: int, to: str) -> None:
    toys = Toys(partitions)
    toys.when("c1", Deposit(amount=100))
    toys.when("c1", Transfer(to=to, amount=40))
    assert toys.account("c1")[2:5] == ((100 if to == "c1" else 60), 0, 0)
    assert toys.account(to).available == (100 if to == "c1" else 40)
    enforce(check_settled(*_ledger(toys), rows_of(toys, ToyRules()).get("transfers", [])))  # type: ignore[arg-type]


def test_a_large_transfer_that_is_declined_comes_back_but_for_its_fee() -> None:
    toys = Toys()
    toys.when("c1", Deposit(amount=1000))
    toys.when("c1", Transfer(to="c2", amount=DECLINED_OVER + 1))
    assert toys.account("c1")[2:5] == (999, 0, 0)
    assert toys.account("c2").available == 0
    enforce(check_settled(*_ledger(toys), rows_of(toys, ToyRules()).get("transfers", [])))  # type: ignore[arg-type]


def test_an_offer_that_comes_again_changes_nothing() -> None:
    toys = Toys()
    toys.when("c1", Deposit(amount=100))
    toys.when("c1", Transfer(to="c2", amount=40))
    offer = next(event for event in toys.stream() if event.type == "toy.transfer_offered.v1")
    before = len(toys.stream())
    toys._publish(offer, partition_of("acme", "c2", 12))
    toys.drain()
    assert len(toys.stream()) == before + 1
    assert toys.account("c2").available == 40


def test_a_nickname_has_one_holder_per_tenant() -> None:
    toys = Toys()
    assert toys.when("c1", Nickname(nickname="fox")).type == "toy.nickname_given.v1"
    assert toys.when("c2", Nickname(nickname="fox")).data.reason == "nickname-taken"
    assert toys.when("c1", Nickname(nickname="fox")).type == "toy.nickname_given.v1"
    assert toys.when("c2", Nickname(nickname="fox"), tenant="brill").type == "toy.nickname_given.v1"


def test_the_rate_is_the_one_that_holds_now_not_the_one_told_last() -> None:
    toys = Toys()
    later = toys.now + timedelta(days=1)
    toys.when(TENANT_SUBJECT, SetRate(percent=9, effective_from=later))
    toys.when(TENANT_SUBJECT, SetRate(percent=5, effective_from=toys.now + timedelta(seconds=1)))
    assert toys.when("c1", Deposit(amount=100)).data.amount == 105
    toys.now = later
    assert toys.when("c1", Deposit(amount=100)).data.amount == 109
    assert toys.when(TENANT_SUBJECT, SetRate(percent=1, effective_from=later)).data.reason == "too-late"


def test_every_third_deposit_earns_a_bonus_that_earns_none() -> None:
    toys = Toys()
    for _ in range(6):
        toys.when("c1", Deposit(amount=100))
    assert toys.account("c1").available == 600 + 2 * 11
    toys.when("c1", Gift(amount=7), worker="bonus")
    assert toys.account("c1").available == 622 + 7
    assert rows_of(toys, BonusRules())["grants"] == [("acme", "c1", 3, 29)]


def test_a_test_clock_says_what_time_it_is() -> None:
    toys = Toys()
    start = EPOCH - timedelta(days=365)
    toys.when(TENANT_SUBJECT, CreateTenant(name="clockwork", clock_at=start), worker="contacts", tenant="clockwork")
    held = toys.when("c1", Deposit(amount=10, hold_seconds=86_400), tenant="clockwork")
    assert held.recorded_at == start
    tomorrow = AdvanceClock(to=start + timedelta(days=1))
    toys.when(TENANT_SUBJECT, tomorrow, worker="contacts", tenant="clockwork")
    toys.settle(EPOCH)
    assert toys.account("c1", "clockwork").available == 10
    back = toys.when(TENANT_SUBJECT, AdvanceClock(to=start), worker="contacts", tenant="clockwork")
    assert back.data.reason == "clock-goes-back"


def test_a_stumble_raises() -> None:
    with pytest.raises(Stumbled):
        Toys().when("c1", Stumble())


def _ledger(toys: Toys) -> tuple[Any, Any]:
    rows = rows_of(toys, ToyRules())
    return rows.get("accounts", []), rows.get("entries", [])


def _busy(seed: int, partitions: int) -> Toys:
    toys = Toys(partitions)
    for ask in [*opening(EPOCH), *work_of(seed, 80, EPOCH)]:
        if ask.data is not None and not isinstance(ask.data, Stumble):
            toys.when(ask.subject, ask.data, worker=ask.worker, tenant=ask.tenant, key=ask.key)
    toys.settle(toys.now + timedelta(seconds=60))
    return toys


@pytest.mark.parametrize(("seed", "partitions"), [(1, 12), (2, 1), (3, 2)])
def test_what_was_decided_folds_again_to_the_same_rows_and_keeps_every_law(seed: int, partitions: int) -> None:
    toys = _busy(seed, partitions)
    stream = toys.read()
    for rules in (ToyRules(), BonusRules(), ClockRules()):
        enforce(check_same(4, rows_of(toys, rules), {k: v for k, v in refold(rules, stream).items() if v}))
        records = [record for at, all_ in toys.records.items() if at.topic == inbox(rules.worker) for record in all_]
        enforce(check_inbox(stream, rules.worker, records))
        enforce(check_tenants(MARKS, rows_by_tenant(rows_of(toys, rules))))
    enforce(check_causes(stream, toys.records))
    enforce(check_ledger(*_ledger(toys)))
    enforce(check_settled(*_ledger(toys), rows_of(toys, ToyRules()).get("transfers", [])))  # type: ignore[arg-type]
    kinds = {event.type for event in toys.stream()}
    assert {"toy.transfer_settled.v1", "toy.matured.v1", "bonus.granted.v1", "request.refused.v1"} <= kinds


def test_the_number_of_partitions_does_not_change_the_state() -> None:
    one, twelve = _busy(5, 1), _busy(5, 12)
    ids = {  # these name a cause or a partition, or have a row for each
        "deposits": ["deposit_id"],
        "transfers": ["transfer_id"],
        "entries": ["event_id"],
        "requests": ["event_id", "partition", "outcome"],
        "subjects": ["partition"],
        "rates": ["*"],
        "clocks": ["*"],
    }
    enforce(check_same(4, rows_of(one, ToyRules()), rows_of(twelve, ToyRules()), besides=ids))
    enforce(check_same(4, rows_of(one, BonusRules()), rows_of(twelve, BonusRules()), besides=ids))


def test_time_in_many_steps_is_time_in_one() -> None:
    def held(steps: int) -> Toys:
        toys = Toys()
        for number in range(5):
            toys.when("c1", Deposit(amount=10, hold_seconds=10 * number))
        for step in range(steps):
            toys.settle(toys.now + timedelta(seconds=100 * (step + 1) / steps))
        return toys

    enforce(check_same(5, rows_of(held(1), ToyRules()), rows_of(held(25), ToyRules())))
