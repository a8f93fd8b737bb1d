"""The points service's API: all its routers."""

from collections.abc import Sequence

from fastapi import APIRouter

from services.points.ledger import api as ledger
from services.points.members import api as members
from services.points.programs import api as programs
from services.points.tiers import api as tiers
from shared.service import Access


def routers(access: Access) -> Sequence[APIRouter]:
    """First path segments of this service: programs, members, redemptions, adjustments, explain, totals, tiers."""
    return [programs.routes(access), members.routes(access), ledger.routes(access), tiers.routes(access)]
