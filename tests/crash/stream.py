"""What the log holds after a round: the stream as its readers accept it, and every letterbox."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.events.envelope import EnvelopeError, Event, decode
from shared.log.port import EVENTS, PARTITIONS, At, Log, Record, inbox
from tests.crash.notes import Defect

READ_AT_ONCE = 5_000
ARRIVAL_SECONDS = 5.0


@dataclass
class Stream:
    """The events of the stream, repeats dropped by sequence; `repeats` says how many there were, by producer."""

    events: list[Event] = field(default_factory=list)
    repeats: Counter[str] = field(default_factory=Counter)
    records: int = 0


async def all_records(log: Log, topic: str) -> list[Record]:
    """Every record of a topic, partition by partition."""
    places = [At(topic, q) for q in range(PARTITIONS)]
    ends = await log.ends(places)
    reader = await log.reader(dict.fromkeys(places, 0))
    found: list[Record] = []
    try:
        for at in places:
            read = 0
            while read < ends[at]:
                records = await reader.take(at, READ_AT_ONCE)
                if not records and not await reader.wait(ARRIVAL_SECONDS):
                    raise Defect(f"{at} gives nothing from {read} on, its end is {ends[at]}")
                found += records
                read = records[-1].offset + 1 if records else read
    finally:
        await reader.close()
    return found


async def read_stream(log: Log) -> Stream:
    """Law 3 as readers see it: per producer and partition, sequences without a gap; a repeat is the same event.

    Raises Defect.
    """
    stream = Stream()
    last: Counter[tuple[str, int]] = Counter()
    accepted: dict[tuple[str, int, int], bytes] = {}
    for record in await all_records(log, EVENTS):
        value = record.value or b""
        event = decode(value)
        line = (event.producer, record.at.partition)
        stream.records += 1
        if event.sequence <= last[line]:
            stream.repeats[event.producer] += 1
            if accepted[*line, event.sequence] != value:
                raise Defect(
                    f"{record.at}/{record.offset}: {line} repeats sequence {event.sequence} with other content"
                )
            continue
        if event.sequence != last[line] + 1:
            raise Defect(f"{record.at}/{record.offset}: {line} goes from {last[line]} to {event.sequence}")
        last[line] = event.sequence
        accepted[*line, event.sequence] = value
        stream.events.append(event)
    return stream


@dataclass
class Letterbox:
    """What one worker was sent: what can be read, and where what cannot be read stands (topic, partition, offset)."""

    inputs: list[Event] = field(default_factory=list)
    unreadable: list[tuple[str, int, int]] = field(default_factory=list)


async def read_letterbox(log: Log, worker: str) -> Letterbox:
    box = Letterbox()
    for record in await all_records(log, inbox(worker)):
        try:
            box.inputs.append(decode(record.value or b""))
        except EnvelopeError:
            box.unreadable.append((record.at.topic, record.at.partition, record.offset))
    return box


def by_name(events: Sequence[Event]) -> dict[tuple[str, str], list[Event]]:
    """Events by their sender's source and id."""
    found: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        found.setdefault((event.source, event.id), []).append(event)
    return found
