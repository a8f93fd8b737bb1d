"""Law 1 for the toy worker, and what must be true of it when everything has been answered."""

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from shared.testing.simulator.stream import Breach
from shared.testing.simulator.toy.store import AccountRow, EntryRow, TransferRow

GUARDED: Final = ("available", "pending", "transit")
"""Balances that are never negative."""


class Ledger:
    """Law 1 step by step: every posting sums to 0, each balance is the sum of its entries, none is ever negative."""

    def __init__(self) -> None:
        self._read = 0
        self._lines: Counter[tuple[str, str, str]] = Counter()
        self._balances: Counter[tuple[str, str, str]] = Counter()

    def look(self, accounts: Iterable[AccountRow], entries: Collection[EntryRow]) -> list[Breach]:
        """Take in the entries since the last look, in the order of their commits, and hold the accounts against all."""
        breaches = []
        by_event: Counter[tuple[str, str, str]] = Counter()
        for entry in islice(entries, self._read, None):
            by_event[entry[:3]] += entry.amount
            line = (entry.tenant, entry.event_id, entry.account)
            self._lines[line] += 1
            if self._lines[line] > 1:
                breaches.append(Breach(6, f"{line} is posted {self._lines[line]} times"))
            place = (entry.tenant, entry.subject, entry.account)
            self._balances[place] += entry.amount
            if self._balances[place] < 0 and entry.account in GUARDED:
                breaches.append(Breach(1, f"{place} is {self._balances[place]} after {entry.event_id}"))
        self._read = len(entries)
        breaches += [Breach(1, f"the postings of {event} sum to {total}") for event, total in by_event.items() if total]
        return breaches + self._hold(accounts)

    def _hold(self, accounts: Iterable[AccountRow]) -> list[Breach]:
        breaches, known = [], set()
        for account in accounts:
            known.add(account[:2])
            for name in GUARDED:
                posted = self._balances[(account.tenant, account.subject, name)]
                if getattr(account, name) != posted:
                    breaches.append(Breach(1, f"{account} has {name} {getattr(account, name)}, its entries {posted}"))
        orphans = {place[:2] for place, total in self._balances.items() if total} - known
        return breaches + [Breach(1, f"{place} has entries and no account") for place in sorted(orphans)]


def check_ledger(accounts: Iterable[AccountRow], entries: Collection[EntryRow]) -> list[Breach]:
    """Law 1 over a whole run at once."""
    return Ledger().look(accounts, entries)


def check_settled(
    accounts: Iterable[AccountRow], entries: Iterable[EntryRow], transfers: Iterable[TransferRow]
) -> list[Breach]:
    """Laws 2 and 9 at rest: every offer is answered, nothing is in transit, and nothing was lost on the way."""
    breaches = [Breach(9, f"{account} still has points in transit") for account in accounts if account.transit]
    clearing: Counter[str] = Counter()
    for entry in entries:
        if entry.account == "clearing":
            clearing[entry.tenant] += entry.amount
    breaches += [
        Breach(1, f"the clearing account of {tenant} is {total}") for tenant, total in clearing.items() if total
    ]
    sides: dict[tuple[str, str], dict[str, str]] = {}
    for row in transfers:
        sides.setdefault((row.tenant, row.transfer_id), {})[row.side] = row.state
    breaches += [
        Breach(2, f"transfer {transfer} ended as {ends}")
        for transfer, ends in sides.items()
        if len(ends) != 2 or len(set(ends.values())) != 1 or "open" in ends.values()
    ]
    return breaches
