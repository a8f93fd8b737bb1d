"""A worker's rules with the API keys that its service must know folded beside its own tables."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from shared.events.envelope import Event
from shared.http.credentials import CREDENTIALS, absorb_credential, credential_needs
from shared.runtime.rules import Draft, Input, Rules
from shared.runtime.tables import Need, Rows, Table

DECLARED: Final = "credential.declared.v1"


class WithCredentials:
    """Implements Rules by another one's, and folds `credential.declared.v1` into CREDENTIALS."""

    def __init__(self, inner: Rules) -> None:
        self._inner = inner
        self.worker, self.requests = inner.worker, inner.requests
        self.fold_version, self.settles = inner.fold_version, inner.settles
        self.tables: Sequence[Table[Any]] = (*inner.tables, CREDENTIALS)
        self.reads = inner.reads | {DECLARED}

    def needs(self, event: Event, partition: int) -> Iterable[Need]:
        if event.type == DECLARED:
            return credential_needs(event, partition)
        return self._inner.needs(event, partition)

    def absorb(self, rows: Rows, event: Event, partition: int) -> None:
        if event.type == DECLARED:
            absorb_credential(rows, event, partition)
        else:
            self._inner.absorb(rows, event, partition)

    def decide(self, rows: Rows, item: Input) -> Sequence[Draft]:
        return () if item.event.type == DECLARED else self._inner.decide(rows, item)

    def evolve(self, rows: Rows, event: Event) -> None:
        self._inner.evolve(rows, event)

    def letters(self, fact: Event) -> Sequence[Draft]:
        return self._inner.letters(fact)

    def due_at(self, rows: Rows, tenant: str, subject: str) -> datetime | None:
        return self._inner.due_at(rows, tenant, subject)
