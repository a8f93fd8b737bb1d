"""`regulars log copy`: carry the stream and the keys from one log to another, and prove it.

Services are stopped and inboxes are drained. The stream keeps partition, order and offset of every record, so that
every position, cause and token that names one stays true. The append times are the new log's: what was decided says
its own `recordedtime`. The keys keep partition and order; a compacted topic has gaps, and those are closed: nobody
stores an offset of the keys, they are read from the start. Inboxes are not carried: the new log begins a new
generation of them, empty.

A copy that broke off is started again in the same way: what the new log has of the stream is compared and then
continued, and the keys are appended once more, which changes no key.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared.log.port import (
    BATCH_BYTES_MAX,
    BATCH_ENTRIES_MAX,
    EVENTS,
    KEYS,
    AppendFailed,
    At,
    Entry,
    Log,
    Record,
    Topic,
)

TAKE: Final = 1_000
WAIT_SECONDS: Final = 30.0
ATTEMPTS_MAX: Final = 5


class CopyRefused(Exception):
    """The logs are not as a copy needs them; the message says what to do. Nothing more was written."""


@dataclass(frozen=True)
class Copied:
    """One partition that is carried and checked: records, and the digest of its content on both sides."""

    at: At
    records: int
    digest: str


async def copy_log(
    source: Log,
    target: Log,
    *,
    inboxes: Mapping[At, int],
    new_inboxes: Sequence[Topic],
    stream: Topic = Topic(EVENTS),  # noqa: B008 (a frozen value)
    keys: Topic = Topic(KEYS, compacted=True),  # noqa: B008
    progress: Callable[[Copied], None] | None = None,
) -> list[Copied]:
    """Carry `stream` and `keys` of `source` to `target`, which is set up here with `new_inboxes` beside them.

    `inboxes` are the positions of the workers: the next offset of each inbox partition that is not yet decided.
    `progress` is called after each partition. Raises CopyRefused, or the logs' own errors: then start it again.
    """
    await _refuse_undrained(source, inboxes)
    topics = [stream, keys, *new_inboxes]
    await target.set_up(topics)
    await target.check(topics)
    await _refuse_filled(target, new_inboxes)
    done: list[Copied] = []
    for topic in (stream, keys):
        for partition in range(topic.partitions):
            at = At(topic.name, partition)
            copied = await (_copy_keys if topic.compacted else _copy_stream)(source, target, at)
            done.append(copied)
            if progress is not None:
                progress(copied)
    return done


async def _refuse_undrained(source: Log, inboxes: Mapping[At, int]) -> None:
    ends = await source.ends(list(inboxes)) if inboxes else {}
    behind = {f"{at.topic}/{at.partition}": end - inboxes[at] for at, end in ends.items() if inboxes[at] < end}
    if behind:
        raise CopyRefused(
            f"inboxes hold undecided records: {behind}; start the workers, let them drain with the API stopped, "
            "stop them and copy again"
        )


async def _refuse_filled(target: Log, new_inboxes: Sequence[Topic]) -> None:
    places = [At(topic.name, partition) for topic in new_inboxes for partition in range(topic.partitions)]
    filled = sorted({at.topic for at, end in (await target.ends(places)).items() if end}) if places else []
    if filled:
        raise CopyRefused(f"the target's inboxes {filled} are in use: copy to a log that no service has written to")


async def _copy_stream(source: Log, target: Log, at: At) -> Copied:
    end = (await source.ends([at]))[at]
    there = (await target.ends([at]))[at]
    if there > end or await _digest(source, at, there) != await _digest(target, at, there):
        raise CopyRefused(
            f"{at.topic}/{at.partition} of the target holds {there} records that are not the first of the source's "
            f"{end}: copy to an empty log"
        )
    async for batch in _batches(_records(source, at, there, end)):
        await _append_at(target, at, there, batch)
        there += len(batch)
    digest = await _digest(source, at, end)
    if (await target.ends([at]))[at] != end or await _digest(target, at, end) != digest:
        raise CopyRefused(f"{at.topic}/{at.partition} differs after the copy: copy again to an empty log")
    return Copied(at, end, digest)


async def _append_at(target: Log, at: At, offset: int, batch: Sequence[Entry]) -> None:
    """Append where the batch must land. We are the only writer: the end says what a failed attempt has done."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            landed = await target.append(at, batch)
        except AppendFailed:
            end = (await target.ends([at]))[at]
            if end == offset + len(batch):
                return
            if attempt < ATTEMPTS_MAX and end == offset:
                continue
            raise
        if landed == offset:
            return
        break
    raise CopyRefused(f"{at.topic}/{at.partition}: something else writes to the target: copy again to an empty log")


async def _copy_keys(source: Log, target: Log, at: At) -> Copied:
    """Append every record again and compare what is left of each key, which is all that compaction keeps."""
    end = (await source.ends([at]))[at]
    async for batch in _batches(_records(source, at, 0, end)):
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                await target.append(at, batch)
                break
            except AppendFailed:
                if attempt == ATTEMPTS_MAX:
                    raise
    wanted, found = await _latest(source, at), await _latest(target, at)
    if wanted != found:
        raise CopyRefused(f"{at.topic}/{at.partition}: the target has other keys: copy again to an empty log")
    digest = hashlib.sha256()
    for key in sorted(wanted):
        _feed(digest, key, wanted[key])
    return Copied(at, len(wanted), digest.hexdigest())


async def _latest(log: Log, at: At) -> dict[bytes, bytes]:
    latest: dict[bytes, bytes] = {}
    async for record in _records(log, at, 0, (await log.ends([at]))[at]):
        if record.value is None:
            latest.pop(record.key, None)
        else:
            latest[record.key] = record.value
    return latest


async def _digest(log: Log, at: At, end: int) -> str:
    digest = hashlib.sha256()
    async for record in _records(log, at, 0, end):
        digest.update(record.offset.to_bytes(8, "big"))
        _feed(digest, record.key, record.value)
    return digest.hexdigest()


def _feed(digest: "hashlib._Hash", key: bytes, value: bytes | None) -> None:
    """Lengths before bytes, so that no two different contents give the same text."""
    digest.update(len(key).to_bytes(4, "big") + key)
    digest.update(b"-" if value is None else len(value).to_bytes(4, "big") + value)


async def _records(log: Log, at: At, start: int, end: int) -> AsyncIterator[Record]:
    """The records of [start, end), read with a deadline between any two takes."""
    if start >= end:
        return
    reader = await log.reader({at: start})
    try:
        following = start
        while following < end:
            if not await reader.wait(WAIT_SECONDS):
                raise CopyRefused(f"{at.topic}/{at.partition}: nothing to read at {following} of {end}")
            for record in await reader.take(at, min(TAKE, end - following)):
                following = record.offset + 1
                if record.offset < end:
                    yield record
    finally:
        await reader.close()


async def _batches(records: AsyncIterator[Record]) -> AsyncIterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    async for record in records:
        more = len(record.key) + len(record.value or b"")
        if batch and (size + more > BATCH_BYTES_MAX or len(batch) == BATCH_ENTRIES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(Entry(record.key, record.value))
        size += more
    if batch:
        yield batch
