"""Folding: how an event of the stream changes rows, the same when it is decided, replayed and rebuilt."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import orjson

from shared.events import catalogue
from shared.events.contacts import ClockDeclared, TenantDeclared
from shared.events.envelope import Event
from shared.events.runtime import ANY_WORKER, InputParked, InputRetried
from shared.runtime.rules import Rules
from shared.runtime.state import CLOCKS, PARKED, REQUESTS, SUBJECTS, ClockRow, ParkedRow, RequestRow, SubjectRow
from shared.runtime.tables import Need, Rows

TIMER: Final = "timer"
"""The type of the input that a due timer is."""

RUNTIME_READS: Final = frozenset({"tenant.declared.v1", "clock.declared.v1"})
"""Letters that the runtime itself reads for every worker: they set test clocks."""


def timer(tenant: str, subject: str, due_at: datetime) -> Event:
    """The input that settles what is due at `due_at`; its id is the same whenever it is run."""
    cause = timer_cause(tenant, subject, due_at)
    return Event(id=cause, source=TIMER, type=TIMER, tenant=tenant, subject=subject, time=due_at, data=None)


def timer_cause(tenant: str, subject: str, due_at: datetime) -> str:
    return f"timer/{tenant}/{subject}/{due_at.isoformat()}"


def is_read(rules: Rules, event_type: str) -> bool:
    """Whether this worker reads the type: by the newest version's name, so that an old version is read as that."""
    if not catalogue.known(event_type):
        return False
    newest = catalogue.newest(event_type).name
    return newest in rules.reads or newest in RUNTIME_READS


def is_own_fact(rules: Rules, event: Event) -> bool:
    """Whether this event of the stream is a fact of this worker, of whichever partition."""
    if event.producer.partition(".")[0] != rules.worker:
        return False
    return catalogue.find(event.type).kind == "fact"


def _is_runtimes(event: Event) -> bool:
    return catalogue.known(event.type) and catalogue.find(event.type).owner == ANY_WORKER


def needs_of(rules: Rules, event: Event, partition: int) -> Iterable[Need]:
    """The groups that folding or deciding this event may touch, the runtime's own included."""
    if event.type in RUNTIME_READS:
        yield Need(CLOCKS, (partition, event.tenant))
        if event.type not in rules.reads:
            return
    elif isinstance(event.data, InputParked | InputRetried):
        yield Need(PARKED, (event.data.topic, event.data.partition, event.data.offset))
    if event.request_key:
        yield Need(REQUESTS, (event.tenant, event.request_key))
    if not _is_runtimes(event):
        yield from rules.needs(event, partition)
    if rules.settles and event.subject:
        yield Need(SUBJECTS, (event.tenant, event.subject))
        if event.type != TIMER:
            yield from rules.needs(Event("", TIMER, TIMER, event.tenant, event.subject, event.time, None), partition)


def fold_other(rules: Rules, rows: Rows, event: Event, partition: int) -> None:
    """Fold an event that is not an own fact into what is known of others."""
    match event.data:
        case TenantDeclared(clock_at=datetime() as at) | ClockDeclared(to=at):
            known = rows.get(CLOCKS, (partition, event.tenant))
            if known is None or known.at < at:
                rows.put(CLOCKS, ClockRow(partition, event.tenant, at))
        case _:
            pass
    if event.type in rules.reads:
        rules.absorb(rows, event, partition)


def fold_own(rules: Rules, rows: Rows, event: Event, partition: int) -> None:
    """Fold an own fact of the worker's partition: the rules' state, the subject's time and the request's outcome."""
    if event.recorded_at is None:
        raise ValueError(f"fact {event.id} has no recordedtime")
    match event.data:
        case InputParked() as parked:
            rows.put(
                PARKED,
                ParkedRow(
                    parked.topic,
                    parked.partition,
                    parked.offset,
                    event.tenant,
                    parked.reason,
                    parked.sealed,
                    event.recorded_at,
                    parked.readable_until,
                    False,
                ),
            )
        case InputRetried() as retried:
            waiting = rows.get(PARKED, (retried.topic, retried.partition, retried.offset))
            if waiting is not None:
                rows.put(PARKED, waiting._replace(retried=True))
        case _ if not _is_runtimes(event):
            rules.evolve(rows, event)
        case _:
            pass
    if event.request_key and rows.get(REQUESTS, (event.tenant, event.request_key)) is None:
        outcome = orjson.dumps(event.data.model_dump(mode="json")).decode()
        rows.put(
            REQUESTS,
            RequestRow(
                event.tenant,
                event.request_key,
                event.request_hash,
                event.id,
                event.type,
                event.subject,
                partition,
                outcome,
            ),
        )
    if rules.settles and not isinstance(event.data, InputParked | InputRetried):
        before = rows.get(SUBJECTS, (event.tenant, event.subject))
        now = event.recorded_at if before is None else max(before.now, event.recorded_at)
        due_at = rules.due_at(rows, event.tenant, event.subject)
        rows.put(SUBJECTS, SubjectRow(event.tenant, event.subject, partition, now, due_at))
