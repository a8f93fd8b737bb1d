"""The laws of points and door as a second, naive idea of them: recounted from entries, facts and keys."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from services.contacts.door.domain import IdentityRow
from services.points.ledger.store import AccountRow, EntryRow, EvaluationRow, LotRow
from shared.events.door import CONFLICT
from shared.events.envelope import Event
from shared.log.port import KEYS, Record
from shared.runtime.state import ParkedRow
from shared.sealing import key_id_of, key_path
from shared.testing.simulator.stream import Accepted, Breach

REFUND: Final = "purchase.refunded.v1"
MEMBER: Final = "member:available"
DEBT: Final = "member:owed"
COLUMNS: Final = {
    "program:issued": ("issued", -1),
    "program:redeemed": ("redeemed", 1),
    "program:expired": ("expired", 1),
    "program:adjusted": ("adjusted", -1),
    "program:reversed": ("reversed", 1),
}
"""The program's accounts: the column of the member's row, and the sign of what arrives there."""

Wallet = tuple[str, str, str]
"""(tenant, contact, wallet)"""


class Books:
    """Law 1 step by step: balances recounted from the entries equal the accounts and what remains in the lots."""

    def __init__(self) -> None:
        self._read = 0
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._sums: defaultdict[Wallet, Counter[str]] = defaultdict(Counter)

    def look(
        self, entries: Collection[EntryRow], accounts: Mapping[Any, AccountRow], lots: Iterable[LotRow]
    ) -> list[Breach]:
        """Take in the entries since the last look, in the order of their commits."""
        breaches: list[Breach] = []
        touched: set[Wallet] = set()
        for entry in islice(entries, self._read, None):
            touched.add((entry.tenant, entry.contact, entry.wallet))
            breaches += self._post(entry)
        self._read = len(entries)
        if touched:
            remaining: Counter[Wallet] = Counter()
            for lot in lots:
                remaining[(lot.tenant, lot.contact, lot.wallet)] += lot.remaining
            for wallet in sorted(touched):
                breaches += self._hold(wallet, accounts.get(wallet), remaining[wallet])
        return breaches

    def _post(self, entry: EntryRow) -> list[Breach]:
        breaches = []
        self._numbers[entry[:2]] += 1
        if entry.number != self._numbers[entry[:2]]:
            breaches.append(Breach(1, f"{entry[:2]}: entry {entry.number} is number {self._numbers[entry[:2]]}"))
        if entry.points <= 0 or entry.source == entry.destination:
            breaches.append(Breach(1, f"{entry} is no posting"))
        sums = self._sums[(entry.tenant, entry.contact, entry.wallet)]
        sums[entry.source] -= entry.points
        sums[entry.destination] += entry.points
        # a debt is the member's account with what is above 0 on the other side
        if sums[MEMBER] < 0 or sums[DEBT] > 0:
            breaches.append(Breach(1, f"{entry} leaves {sums[MEMBER]} available and {-sums[DEBT]} owed"))
        return breaches

    def _hold(self, wallet: Wallet, account: AccountRow | None, remaining: int) -> list[Breach]:
        if account is None:
            return [Breach(1, f"{wallet} has entries and no account")]
        sums = self._sums[wallet]
        expected = {"available": sums[MEMBER], "owed": -sums[DEBT]}
        expected |= {column: sign * sums[name] for name, (column, sign) in COLUMNS.items()}
        shown = {column: getattr(account, column) for column in expected}
        breaches = []
        if shown != expected:
            breaches.append(Breach(1, f"{wallet} shows {shown}, its entries make {expected}"))
        if remaining != account.available:
            breaches.append(Breach(1, f"{wallet} has {account.available} available, its lots hold {remaining}"))
        if sum(sums.values()):
            breaches.append(Breach(1, f"the postings of {wallet} do not sum to 0"))
        return breaches


def _refuses_another_body(fact: Event) -> bool:
    return fact.type == "delivery.refused.v1" and fact.data.reason == CONFLICT


def _settles(fact: Event) -> bool:
    """Whether it ends the waiting of a deferred refund."""
    return fact.type == "refund.refused.v1" or bool(getattr(fact.data, "released", False))


Sent = tuple[str, str, str]
"""(tenant, source, id) of a sender's event."""


class Deliveries:
    """Laws 2 and 6 for the door: what was said of each sender's event and each order, from its facts on the stream."""

    def __init__(self) -> None:
        self._read = 0
        self.said: defaultdict[Sent, list[Event]] = defaultdict(list)
        self._bought: dict[tuple[str, str, str], Event] = {}
        self._returned: defaultdict[tuple[str, str, str], list[Event]] = defaultdict(list)

    def look(self, facts: Mapping[str, Accepted]) -> list[Breach]:
        """Take in the facts since the last look."""
        breaches: list[Breach] = []
        for accepted in islice(facts.values(), self._read, None):
            event = accepted.event
            if event.producer.partition(".")[0] == "door" and event.source != "/door":
                breaches += self._take(event)
        self._read = len(facts)
        return breaches

    def _take(self, event: Event) -> list[Breach]:
        """What stands on several partitions comes in any order."""
        sent = (event.tenant, event.source, event.id)
        facts = self.said[sent]
        facts.append(event)
        firsts = [each for each in facts if not _refuses_another_body(each) and not _settles(each)]
        bodies = [getattr(each.data, "body_hash", "") for each in facts if not _settles(each)]
        breaches = []
        if len(firsts) > 1 or len([each for each in facts if _settles(each)]) > 1:
            breaches.append(Breach(6, f"{sent} is recorded as {[each.type for each in facts]}"))
        if len(set(bodies)) != len(bodies):
            breaches.append(Breach(6, f"{sent}: the same body is recorded or refused twice"))
        return breaches + self._order(event)

    def _order(self, event: Event) -> list[Breach]:
        if event.type not in ("purchase.completed.v1", "purchase.refunded.v1"):
            return []
        order = (event.tenant, event.data.channel, event.data.order_id)
        if event.type == "purchase.completed.v1":
            again = order in self._bought
            self._bought[order] = event
            return [Breach(6, f"order {order} is completed twice")] if again else []
        self._returned[order].append(event)
        refunds = [each.data.refund_id for each in self._returned[order]]
        if len(set(refunds)) != len(refunds):
            return [Breach(6, f"order {order} is refunded twice by {refunds}")]
        return []

    def check_orders(self) -> list[Breach]:
        """At rest: what was settled had been deferred; nothing came back that was not bought, of any line no more."""
        breaches = [
            Breach(2, f"{sent} is settled and was never deferred")
            for sent, facts in self.said.items()
            if any(map(_settles, facts)) and "refund.deferred.v1" not in [each.type for each in facts]
        ]
        for order, refunds in self._returned.items():
            if order not in self._bought:
                breaches.append(Breach(2, f"order {order} was refunded and never bought"))
                continue
            left = {line.line_id: line.quantity for line in self._bought[order].data.lines}
            for refund in refunds:
                for line in refund.data.lines:
                    left[line.line_id] = left.get(line.line_id, 0) - line.quantity
            breaches += (
                [Breach(2, f"of order {order} more came back than was bought: {left}")]
                if min(left.values()) < 0
                else []
            )
        return breaches


class Keys:
    """Law 8: a key is in the log before anything that is sealed with it is committed."""

    def __init__(self) -> None:
        self._paths: set[bytes] = set()
        self._read: Counter[int] = Counter()
        self._rows: Counter[str] = Counter()

    def look(
        self,
        keys: Sequence[Sequence[Record]],
        identities: Collection[IdentityRow],
        parked: Collection[ParkedRow],
    ) -> list[Breach]:
        for q, records in enumerate(keys):
            self._paths |= {record.key for record in islice(records, self._read[q], None)}
            self._read[q] = len(records)
        used = [(row.tenant, row.contact, row.value) for row in islice(identities, self._rows["identities"], None)]
        for row in islice(parked, self._rows["parked"], None):
            used.append((row.tenant, f"inbox/{row.topic}/{row.partition}/{row.offset}", row.sealed))
        self._rows.update({"identities": len(identities) - self._rows["identities"]})
        self._rows.update({"parked": len(parked) - self._rows["parked"]})
        return [
            Breach(8, f"a text of {tenant}/{subject} is sealed under a key that is not in {KEYS}")
            for tenant, subject, sealed in used
            if key_path(tenant, subject, key_id_of(sealed)) not in self._paths
        ]


def check_evaluated(accepted: Iterable[Accepted], evaluations: Iterable[EvaluationRow]) -> list[Breach]:
    """Law 2 at rest: every purchase and event of a tenant's own was put to the rules once, and no other event.

    A refund that overtook its order is spoken of twice: when it came, and when its order had come.
    """
    wanted = {
        (each.event.tenant, each.event.source, each.event.id, each.event.type)
        for each in accepted
        if each.event.type in ("purchase.completed.v1", REFUND, "custom.recorded.v1")
    }
    rows = [((row.tenant, row.event_source, row.event_id, row.event_type), row.reason) for row in evaluations]
    spoken, found = {name for name, _ in rows}, Counter(rows)
    breaches = [Breach(2, f"{name} was never put to the rules") for name in sorted(wanted - spoken)]
    breaches += [Breach(2, f"{name} was put to the rules and is not on the stream") for name in sorted(spoken - wanted)]
    often = Counter(name for name, _ in rows if name[3] != REFUND) + found
    return breaches + [Breach(6, f"{name} was put to the rules {n} times") for name, n in often.items() if n > 1]


def check_private(private: Sequence[str], shown: Iterable[tuple[str, bytes]]) -> list[Breach]:
    """Law 8: no personal data where it is not sealed. `shown`: what is kept, each with where."""
    return [
        Breach(8, f"{where} shows personal data: {text}")
        for where, value in shown
        for text in private
        if text.encode() in value
    ]


def digest(text: str) -> str:
    """A body's hash."""
    return hashlib.sha256(text.encode()).hexdigest()
