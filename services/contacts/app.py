"""The contacts service's API: all its routers."""

from collections.abc import Sequence

from fastapi import APIRouter

from services.contacts.door import api as door
from services.contacts.tenants import api as tenants
from shared.service import Access


def routers(access: Access) -> Sequence[APIRouter]:
    """First path segments of this service: events, tenants, credentials, clock."""
    return [door.routes(access), tenants.routes(access)]
