"""`regulars log`: carry the log to another engine, and check what the topics are."""

from typing import Annotated, Final

import typer

from shared.command import Surroundings, attempt, fail
from shared.log.copy import Copied, CopyRefused, copy_log
from shared.log.open import open_log
from shared.log.port import PARTITIONS, At, Topic, inbox
from shared.operations import Place, forget_answers, places
from shared.runtime.postgres_store import PostgresStore
from shared.service import INBOX_RETENTION_DAYS, opened_log

FROM_HELP: Final = "The log to read: postgresql://… or kafka://host:port."
TO_HELP: Final = "The log to write, empty: kafka://host:port,host:port or postgresql://…"

From = Annotated[str, typer.Argument(help=FROM_HELP)]
Target = Annotated[str, typer.Argument(help=TO_HELP)]


def add_log(app: typer.Typer, surroundings: Surroundings) -> None:
    """Add `log copy` and `log check`."""
    log = typer.Typer(help="The log: where everything that happened is kept.", no_args_is_help=True)
    app.add_typer(log, name="log")

    @log.command("check")
    def _check() -> None:
        """Make topics that are missing and refuse any that could lose or reorder."""
        with surroundings() as parts:
            attempt(_checked(places(parts)))
        typer.echo("every topic is as it must be")

    @log.command("copy")
    def _copy(source: From, target: Target) -> None:
        """Carry stream and keys to another log, keeping partition, order and offsets. Stop the services first.

        Their inboxes must be drained: stop the APIs, let the workers finish, then stop them. When it is done, start
        the services with the settings that it prints.
        """
        with surroundings() as parts:
            found = places(parts)
            generation = max(place.part.settings.inbox_generation for place in found)
            attempt(_copied(source, target, found, generation))
        typer.echo("copied and compared. Start the services with:")
        typer.echo(f"  REGULARS_LOG_URL={target}")
        typer.echo(f"  REGULARS_INBOX_GENERATION={generation + 1}")


async def _checked(found: list[Place]) -> None:
    for part in {place.part.service.name: place.part for place in found}.values():
        async with opened_log(part.settings, [part.service]):
            pass


async def _copied(source_url: str, target_url: str, found: list[Place], generation: int) -> None:
    try:
        source, target = open_log(source_url), open_log(target_url)
    except ValueError as error:
        fail(error)
    try:
        inboxes: dict[At, int] = {}
        for place in found:
            inboxes |= await _decided(place, generation)
        new = [Topic(inbox(place.plan.name, generation + 1), retention_days=INBOX_RETENTION_DAYS) for place in found]
        await copy_log(source, target, inboxes=inboxes, new_inboxes=new, progress=_say)
        for place in found:
            await forget_answers(place)
    except CopyRefused as error:
        fail(error)
    finally:
        await source.close()
        await target.close()


async def _decided(place: Place, generation: int) -> dict[At, int]:
    """The next inbox offset of each partition that is not decided yet; refuses while a worker runs."""
    name, topic = place.plan.name, inbox(place.plan.name, generation)
    store = await PostgresStore.open(place.part.settings.database_url, name)
    try:
        _, holders = await store.owners(0.0)
        if holders:
            fail(f"{name} is running as {sorted(set(holders.values()))[0]}: stop its workers first")
        positions = [await store.position(q) for q in range(PARTITIONS)]
    finally:
        await store.close()
    return {At(topic, position.partition): position.offsets.get(topic, 0) for position in positions if position}


def _say(copied: Copied) -> None:
    typer.echo(f"  {copied.at.topic}/{copied.at.partition}: {copied.records:,} records, {copied.digest[:12]}")
