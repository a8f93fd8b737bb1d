"""One crash round, and a set of them: load, kills, heal, proofs; and whether the set proved anything.

`tests/soak.py` runs many, `tests/crash/test_crash_rounds.py` two on each log.
"""

import asyncio
import shutil
import socket
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient

from shared.log.port import EVENTS, PARTITIONS, AppendFailed, At, Entry, Log, LogUnavailable, inbox
from shared.runtime.proof import positions, unpublished, verify
from shared.sealing import MasterKey
from shared.service import migrate, opened_log, topics
from shared.settings import Settings
from shared.testing.kafka_rungs import KafkaRung
from tests.crash import laws, tables
from tests.crash.acts import IN_TRANSACTION, POINTS
from tests.crash.callers import Caller, Line, open_tenant
from tests.crash.notes import Defect, Notebook
from tests.crash.process import SERVICES, plan_of
from tests.crash.stream import Letterbox, Stream, read_letterbox, read_stream
from tests.crash.supervisor import Supervisor
from tests.crash.tables import connected
from tests.crash.waiting import passed, until

MASTER_KEY: Final = bytes(range(32))
ADMIN_KEY: Final = "an-admin-key-of-the-crash-rounds"
WORKERS: Final = ("door", "contacts", "points")
CALLERS: Final = 24
LOAD_SECONDS_MAX: Final = 40.0
HEALED_SECONDS_MAX: Final = 30.0
BROKER_KILLED_AFTER_SECONDS: Final = 2.0
JUNK_EVERY_SECONDS: Final = 0.7
ASKED_AGAIN: Final = 12
JUNK: Final = (b"no JSON at all", b'{"specversion": "1.0"}')

REQUIRED: Final = (
    *(f"kill {point}" for point in POINTS),
    *(f"stop {point}" for point in ("batch.2", "batch.6", "relay.append")),
    "kill at any time",
    "stop at any time",
    "killed in a transaction",
    "suffix_dropped",
    "stale_refused",
    "parked",
)
"""What a set of rounds must have seen at least once; without it the set proves nothing."""


@dataclass
class Round:
    """What one round did and found."""

    log: str
    seed: int
    seconds: float = 0.0
    heal_seconds: float = 0.0
    events: int = 0
    requests: int = 0
    records: int = 0
    folded: int = 0
    unknown: int = 0
    counted: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        kills = sum(n for name, n in self.counted.items() if name.startswith("kill "))
        stops = sum(n for name, n in self.counted.items() if name.startswith("stop "))
        names = ("suffix_dropped", "stale_refused", "parked", "conflicts", "append_retried")
        seen = ", ".join(f"{name} {self.counted[name]}" for name in names)
        return (
            f"{self.log} round, seed {self.seed}: {self.seconds:.0f} s, healed in {self.heal_seconds:.1f} s, "
            f"{self.events} events and {self.requests} requests told, {self.unknown} repeated, {kills} kills, "
            f"{stops} stops, {seen}, {self.folded} events folded: equal"
        )


def missing(rounds: Sequence[Round]) -> list[str]:
    """What the set must have seen and has not: then it is void."""
    total: Counter[str] = Counter()
    for one in rounds:
        total.update(one.counted)
    return [name for name in REQUIRED if not total[name]]


class Site:
    """Where rounds run: a Postgres server, and a Kafka for those on Kafka. Every round begins with an empty log."""

    def __init__(self, postgres_url: str, kafka: KafkaRung | None = None) -> None:
        self.postgres_url, self.kafka = postgres_url, kafka

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Settings]:
        """Settings with an empty database, an empty log and a free port."""
        name = f"crash_{uuid.uuid4().hex[:12]}"
        server = await asyncpg.connect(self.postgres_url)
        try:
            # The name is ours, letters and digits: DDL takes no parameters.
            await server.execute("create database " + name + " template template0 strategy file_copy")
            url = urlunsplit(urlsplit(self.postgres_url)._replace(path="/" + name))
            if self.kafka is not None:
                await empty(self.kafka.bootstrap)
            with socket.create_server(("127.0.0.1", 0)) as found:
                port = found.getsockname()[1]
            log_url = url if self.kafka is None else f"kafka://{self.kafka.bootstrap}"
            yield Settings("all", url, log_url, MASTER_KEY, ADMIN_KEY, "127.0.0.1", port, "warning")
            await server.execute("drop database " + name + " with (force)")
        finally:
            await server.close()


async def empty(bootstrap: str) -> None:
    """Remove the topics of an earlier round."""
    names = {topic.name for topic in topics(SERVICES)}
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if found := names & set(await admin.list_topics()):
            await admin.delete_topics(sorted(found))

        async def gone() -> bool:
            return not names & set(await admin.list_topics())

        if not await until(gone, HEALED_SECONDS_MAX):
            raise Defect("the topics of an earlier round cannot be removed")
    finally:
        await admin.close()


async def crash_round(site: Site, seed: int) -> Round:
    """Run one round. Raises Defect with the seed, what is wrong and what the processes said."""
    done = Round("Postgres log" if site.kafka is None else "Kafka", seed)
    began = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="regulars-crash-"))
    draw = Random(seed)
    try:
        async with site.fresh() as settings:
            for service in SERVICES:
                await migrate(service, settings)
            async with opened_log(settings, SERVICES) as log:
                supervisor = Supervisor(place, settings, seed)
                try:
                    await _play(site, settings, log, supervisor, done, draw)
                except Exception as error:
                    raise Defect(
                        f"{done.log}, seed {seed}: {type(error).__name__}: {error}\n"
                        f"{supervisor.output()}\ncounted: {dict(supervisor.counted())}"
                    ) from error
    finally:
        shutil.rmtree(place)
    done.seconds = time.monotonic() - began
    return done


async def _play(site: Site, settings: Settings, log: Log, supervisor: Supervisor, done: Round, draw: Random) -> None:
    """Load, kills, heal; then the processes end, and what they left is looked at."""
    notebook = Notebook()
    supervisor.start()
    try:
        line, contacts = await open_tenant(f"http://127.0.0.1:{settings.port}", ADMIN_KEY, notebook)
        try:
            await _trouble(site, log, supervisor, line, contacts, draw)
            began = time.monotonic()
            await _caught_up(settings, log)
            done.heal_seconds = time.monotonic() - began
            await _ask_again(line, notebook, draw)
        except Exception:
            supervisor.show_tasks()
            raise
        finally:
            await line.close()
    finally:
        await supervisor.end()
    done.events, done.requests, done.unknown = len(notebook.events), len(notebook.requests), notebook.unknown
    done.counted = supervisor.counted()
    done.counted["killed in a transaction"] = sum(done.counted[f"kill {point}"] for point in IN_TRANSACTION)
    if done.counted["alarms"]:
        raise Defect("a partition stood still with an alarm")
    await _prove(settings, log, notebook, done)


async def _trouble(site: Site, log: Log, supervisor: Supervisor, line: Line, contacts: list[str], draw: Random) -> None:
    """Callers call while processes die; every caller gets its answers in the end."""
    over = asyncio.Event()
    callers = [Caller(line, contacts, number, Random(draw.random())) for number in range(CALLERS)]
    calls = [asyncio.create_task(caller.call(over), name=f"caller {n}") for n, caller in enumerate(callers)]
    calls.append(asyncio.create_task(_litter(log, Random(draw.random()), over), name="litter"))
    supervisor.arm()
    if site.kafka is not None and site.kafka.native is not None and draw.random() < 0.5:
        calls.append(asyncio.create_task(_kill_broker(site, supervisor, over), name="broker"))
    failing = asyncio.create_task(_first_failure(calls))
    played = asyncio.create_task(supervisor.played.wait())
    await asyncio.wait((played, failing), timeout=LOAD_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
    played.cancel()
    supervisor.heal()
    over.set()
    await failing


async def _first_failure(calls: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all, and raise what the first that failed raised."""
    try:
        await asyncio.gather(*calls)
    except BaseException:
        for call in calls:
            call.cancel()
        raise


async def _kill_broker(site: Site, supervisor: Supervisor, over: asyncio.Event) -> None:
    assert site.kafka is not None
    assert site.kafka.native is not None
    await passed(BROKER_KILLED_AFTER_SECONDS, over)
    supervisor.deeds["kill broker"] += 1
    await asyncio.to_thread(site.kafka.native.kill)
    await asyncio.to_thread(site.kafka.native.start)


async def _litter(log: Log, draw: Random, over: asyncio.Event) -> None:
    """What nobody can read comes into the letterboxes, and must be parked."""
    while not over.is_set():
        await passed(JUNK_EVERY_SECONDS, over)
        at = At(inbox(draw.choice(WORKERS)), draw.randrange(PARTITIONS))
        with suppress(AppendFailed, LogUnavailable):
            await log.append(at, [Entry(b"acme/litter", draw.choice(JUNK))])


async def _caught_up(settings: Settings, log: Log) -> None:
    """Law 9: every worker reaches the ends of what it reads, and publishes all it wrote, with nobody's doing."""
    lag: dict[str, int] = {}

    async def nothing_left() -> bool:
        lag.clear()
        lag.update(await _lag(settings, log))
        return not any(lag.values())

    if not await until(nothing_left, HEALED_SECONDS_MAX):
        raise Defect(f"not caught up {HEALED_SECONDS_MAX:.0f} s after the last fault: {lag}")


async def _lag(settings: Settings, log: Log) -> dict[str, int]:
    """Records not applied and rows not published, by worker."""
    found: dict[str, int] = {}
    for worker in WORKERS:
        read = [At(topic, q) for topic in (inbox(worker), EVENTS) for q in range(PARTITIONS)]
        ends = await log.ends(read)
        database = await connected(settings.database_url, worker)
        try:
            at = await positions(database)
            unsent = await unpublished(database, at)
        finally:
            await database.close()
        applied = {
            place: at[place.partition].offsets.get(place.topic, 0) if place.partition in at else 0 for place in read
        }
        found[worker] = sum(ends[place] - applied[place] for place in read)
        found[f"{worker}'s outbox"] = unsent
    return found


async def _ask_again(line: Line, notebook: Notebook, draw: Random) -> None:
    """Once more, after everything: a key is answered as before, a receipt is there."""
    for key in draw.sample(sorted(notebook.requests), min(ASKED_AGAIN, len(notebook.requests))):
        note = notebook.requests[key]
        note.told.append(await line.definite("POST", note.path, note.body, key=key))
    for source, name in draw.sample(sorted(notebook.events), min(ASKED_AGAIN, len(notebook.events))):
        path = f"/v1/events?source={source}&id={name}"
        receipt = await line.definite("GET", path)
        if receipt.status != 200:
            raise Defect(f"{path} was accepted, and its receipt is {receipt.status} {receipt.body}")


async def _prove(settings: Settings, log: Log, notebook: Notebook, done: Round) -> None:
    master = MasterKey(settings.master_key)
    for worker in WORKERS:
        service, plan = plan_of(worker)
        proof = await verify(service.database(plan, settings, PARTITIONS), plan.rules(master), log)
        done.folded += proof.events_folded
        if not proof.equal:
            unequal = [table for table in proof.tables if not table.equal]
            raise Defect(f"{worker} is not what the stream folds to: {unequal}, {proof.events_folded} events folded")
    stream = await read_stream(log)
    done.records = stream.records
    boxes = {worker: await read_letterbox(log, worker) for worker in WORKERS}
    faults = [*laws.event_faults(notebook, stream), *laws.request_faults(notebook, stream), *laws.effect_faults(stream)]
    faults += await _faults_in_tables(settings, stream, boxes)
    if faults:
        raise Defect(f"{len(faults)} faults:\n" + "\n".join(faults[:20]))


async def _faults_in_tables(settings: Settings, stream: Stream, boxes: dict[str, Letterbox]) -> list[str]:
    faults: list[str] = []
    for worker in WORKERS:
        database = await connected(settings.database_url, worker)
        try:
            faults += await tables.letterbox_faults(worker, boxes[worker], database)
            faults += await tables.outcome_faults(worker, stream, database)
            if worker == "points":
                faults += await tables.ledger_faults(database)
        finally:
            await database.close()
    return faults
