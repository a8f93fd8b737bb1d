"""`/v1/tiers`: how many members each level has."""

from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.points.asking import Reader, Reads, points_router, tenant_now
from services.points.programs.document import ProgramDocument
from services.points.programs.domain import version_at
from services.points.programs.evaluate import compiled_from
from services.points.programs.read_store import published_versions
from services.points.tiers.read_store import LevelCount, members_per_level
from shared.events.catalogue import Time
from shared.service import Access


class LevelAnswer(BaseModel):
    """A level and its members."""

    tiers: str
    level: str
    name: str = Field(description="As the program in force calls it; empty when it has no such level any more.")
    threshold: int | None = Field(description="Qualifying points of a period that reach it.")
    benefits: list[str]
    members: int = Field(description="Members on this level as last decided.")
    overdue: int = Field(description="Of them, those whose review is due and not decided yet.")


class TiersAnswer(BaseModel):
    """All levels from the lowest to the highest, those without members too."""

    at: Time
    levels: list[LevelAnswer]


def routes(access: Access) -> APIRouter:
    """The routes of tiers."""
    api = points_router("tiers")

    @api.get("/v1/tiers")
    async def tiers(caller: Reader, reading: Reads) -> TiersAnswer:
        """How many members each tier level has now."""
        async with reading.state(access, caller.tenant) as connection:
            at = await tenant_now(access, connection, caller.tenant)
            counts = await members_per_level(connection, caller.tenant, at)
            version = version_at(await published_versions(connection, caller.tenant), at)
        document = None if version is None else compiled_from(version.document).document
        return TiersAnswer(at=at, levels=_levels(document, counts))

    return api


def _levels(document: ProgramDocument | None, counts: Sequence[LevelCount]) -> list[LevelAnswer]:
    """The levels of the program in force in order, then those that only members still have."""
    found = {(count.tiers, count.level): count for count in counts}
    levels = []
    tiers = None if document is None else document.tiers
    if tiers is not None:
        for level in tiers.levels:
            count = found.pop((tiers.code, level.code), LevelCount(tiers.code, level.code, 0, 0))
            levels.append(
                LevelAnswer(
                    **count._asdict(), name=level.name, threshold=level.threshold, benefits=list(level.benefits)
                )
            )
    return levels + [
        LevelAnswer(**count._asdict(), name="", threshold=None, benefits=[]) for _, count in sorted(found.items())
    ]
