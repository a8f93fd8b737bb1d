"""What an operator does to services besides running them: migrate, verify, rebuild, look after parked inputs.

Nothing here prints; `shared.command` does.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import asyncpg

from shared.events.envelope import EnvelopeError, Event, decode, encode
from shared.events.runtime import RetryInput
from shared.keyring import Erased, KeyReader, Keyring
from shared.log.port import PARTITIONS, At, Entry, Log
from shared.process import Part
from shared.runtime.migrations import machinery_schema_of, quoted
from shared.runtime.postgres_store import PostgresStore
from shared.runtime.proof import CLEAR_ANSWERS, NotProvable, Proof, rebuild, verify
from shared.runtime.replay import Replayed
from shared.runtime.state import PARKED, ParkedRow
from shared.sealing import MasterKey
from shared.service import WorkerPlan, migrate, opened_log

PROVABLE_SECONDS_MAX: Final = 30.0
PROVABLE_AGAIN_SECONDS: Final = 0.2


class OperationRefused(Exception):
    """What was asked cannot be done; the message says what to do instead."""


@dataclass(frozen=True)
class Place:
    """One worker of the services at hand."""

    part: Part
    plan: WorkerPlan


def places(parts: Sequence[Part], names: Sequence[str] = ()) -> list[Place]:
    """The workers of these names, or all. Raises OperationRefused for a name that none has."""
    found = [Place(part, plan) for part in parts for plan in part.service.workers]
    known = [place.plan.name for place in found]
    if unknown := sorted(set(names) - set(known)):
        raise OperationRefused(f"there is no worker {', '.join(unknown)} here; there are {', '.join(known)}")
    return [place for place in found if not names or place.plan.name in names]


async def migrate_all(parts: Sequence[Part]) -> dict[str, list[str]]:
    """Bring every schema up to date; what was applied now, by service. Raises MigrationRefused."""
    return {part.service.name: await migrate(part.service, part.settings) for part in parts}


async def verify_one(place: Place, partitions: int = PARTITIONS) -> Proof:
    """Fold the stream again and compare. While a relay is still publishing, tries again for half a minute.

    Raises NotProvable, ReplayFailed.
    """
    part, plan = place.part, place.plan
    rules = plan.rules(MasterKey(part.settings.master_key))
    deadline = asyncio.get_running_loop().time() + PROVABLE_SECONDS_MAX
    async with opened_log(part.settings, [part.service]) as log:
        while True:
            try:
                return await verify(part.service.database(plan, part.settings, partitions), rules, log)
            except NotProvable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(PROVABLE_AGAIN_SECONDS)


async def rebuild_one(place: Place, partitions: int = PARTITIONS) -> Replayed:
    """Make a worker's state from the stream alone; its schemas are made first where the database is lost.

    Raises NotProvable while its workers run, ReplayFailed, MigrationRefused.
    """
    part, plan = place.part, place.plan
    await migrate(part.service, part.settings)
    rules = plan.rules(MasterKey(part.settings.master_key))
    async with opened_log(part.settings, [part.service]) as log:
        return await rebuild(part.service.database(plan, part.settings, partitions), rules, log)


async def forget_answers(place: Place) -> None:
    """Begin a new generation of inboxes: how far the old one was answered says nothing of the new one's offsets."""
    path = quoted(machinery_schema_of(place.plan.name))
    connection = await asyncpg.connect(place.part.settings.database_url, server_settings={"search_path": path})
    try:
        await connection.execute(CLEAR_ANSWERS)
    finally:
        await connection.close()


# ---- parked inputs


async def parked(place: Place) -> list[ParkedRow]:
    """The inputs that wait for a person, oldest first."""
    store = await PostgresStore.open(place.part.settings.database_url, place.plan.name)
    try:
        rows = [row async for row in store.snapshot_rows(PARKED) if not row.retried]
    finally:
        await store.close()
    return sorted(rows, key=lambda row: (row.parked_at, row.topic, row.partition, row.offset))


async def retry_parked(place: Place, cause: str) -> tuple[At, int]:
    """Ask the worker to decide a parked input again; where the asking stands in its inbox.

    `cause` is topic/partition/offset as `parked` lists it. Raises OperationRefused.
    """
    row = next((row for row in await parked(place) if cause_of(row) == cause), None)
    if row is None:
        raise OperationRefused(f"{place.plan.name} has no parked input {cause} that waits; list them first")
    settings = place.part.settings
    async with opened_log(settings, [place.part.service]) as log:
        async with _keys(log, MasterKey(settings.master_key)) as keys:
            text = await keys.unseal(row.tenant, f"inbox/{cause}", row.sealed)
        if isinstance(text, Erased):
            raise OperationRefused(f"{cause} can no longer be read: its key is gone")
        at = At(row.topic, row.partition)
        event = _retry(row, text)
        return at, await log.append(at, [Entry(f"{event.tenant}/{event.subject}".encode(), encode(event))])


def cause_of(row: ParkedRow) -> str:
    """topic/partition/offset."""
    return f"{row.topic}/{row.partition}/{row.offset}"


def _retry(row: ParkedRow, value: str) -> Event:
    subject = f"inbox/{cause_of(row)}"
    with suppress(EnvelopeError):
        subject = decode(base64.b64decode(value)).subject
    return Event(
        id=f"retry-{os.urandom(8).hex()}",
        source="/operator",
        type="input.retry.v1",
        tenant=row.tenant,
        subject=subject,
        time=datetime.now(UTC),
        data=RetryInput(topic=row.topic, partition=row.partition, offset=row.offset, value=value),
    )


@asynccontextmanager
async def _keys(log: Log, master: MasterKey) -> AsyncIterator[KeyReader]:
    keys = KeyReader(log, Keyring(master, os.urandom, lambda: datetime.now(UTC)), master)
    reading = asyncio.create_task(keys.run(), name="keys")
    try:
        yield keys
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
