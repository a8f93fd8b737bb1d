"""`/v1/members`: what a member has, where it stands, and every line of its ledger."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict

from services.points.asking import AsOf, KnownAt, Reader, Reads, points_router
from services.points.ledger.read_store import (
    FIRST_PAGE,
    Balance,
    BalanceAsOf,
    BurnPlace,
    balances,
    balances_as_of,
    ledger_page,
    open_lots,
)
from services.points.members.answers import (
    ContactAnswer,
    EntryAnswer,
    Lapsing,
    LotAnswer,
    MemberAnswer,
    NextLevel,
    TierAnswer,
    WalletAnswer,
    entry_answer,
    lot_answer,
)
from services.points.members.read_store import lapsing_as_of, lapsing_next
from services.points.members.whom import Identity, find, known
from services.points.programs.document import Level
from services.points.programs.domain import version_at
from services.points.programs.evaluate import compiled_from
from services.points.programs.read_store import published_versions, settings_of
from services.points.programs.store import PublishedRow
from services.points.tiers.domain import standing_at
from services.points.tiers.read_store import tier_as_of, tier_of
from shared.events.contacts import TenantSettings
from shared.http.paging import DETAIL, LIMIT_DEFAULT, Cursor, Keyset, Limit, Page
from shared.http.problems import BadCursor, problem_responses
from shared.runtime.migrations import Connection
from shared.service import Access

BY_NUMBER: Final = Keyset("ledger", (int,))
BY_BURN_ORDER: Final = Keyset("lots", (str, str, datetime, int))

Contact = Annotated[str, Path(max_length=200)]
WalletCode = Annotated[str, Query(max_length=100, description="Only this wallet.")]


class LookUp(BaseModel):
    """An identity to find a contact by."""

    model_config = ConfigDict(extra="forbid")

    identity: Identity


def routes(access: Access) -> APIRouter:
    """The routes of members."""
    api = points_router("members")
    _member(api, access)
    _ledger(api, access)
    return api


def _member(api: APIRouter, access: Access) -> None:
    @api.post("/v1/members/lookup", responses=problem_responses(404, 409))
    async def look_up(asked: LookUp, caller: Reader, reading: Reads) -> ContactAnswer:
        """The contact that has this identity. It changes nothing; it is a POST so that no address holds the value."""
        async with reading.state(access, caller.tenant) as connection:
            return ContactAnswer(contact=await find(connection, caller.tenant, asked.identity, access.master))

    @api.get("/v1/members/{contact}")
    async def member(contact: Contact, caller: Reader, reading: Reads, as_of: AsOf = None) -> MemberAnswer:
        """Balances and tier: now, as a redemption would find them; or as of an instant, by the events' own times."""
        async with reading.state(access, caller.tenant) as connection:
            now = (await known(connection, caller.tenant, contact)).instant(access.now())
            at = now if as_of is None else as_of
            wallets = await _wallets(connection, caller.tenant, contact, at, history=as_of is not None)
            tier = await _tier(connection, caller.tenant, contact, at, now)
        return MemberAnswer(contact=contact, at=at, wallets=wallets, tier=tier)


def _ledger(api: APIRouter, access: Access) -> None:
    @api.get("/v1/members/{contact}/ledger")
    async def ledger(
        contact: Contact,
        caller: Reader,
        reading: Reads,
        wallet: WalletCode = "",
        as_of: AsOf = None,
        known_at: KnownAt = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[EntryAnswer]:
        """Every posting, the latest written first."""
        (before,) = BY_NUMBER.decode(cursor) if cursor else (FIRST_PAGE,)
        async with reading.state(access, caller.tenant) as connection:
            await known(connection, caller.tenant, contact)
            rows = await ledger_page(
                connection,
                caller.tenant,
                contact,
                limit + 1,
                before=before,
                wallet=wallet,
                as_of=as_of,
                known_at=known_at,
            )
        return BY_NUMBER.page([entry_answer(row) for row in rows], [(row.number,) for row in rows], limit)

    @api.get("/v1/members/{contact}/lots")
    async def lots(
        contact: Contact, caller: Reader, reading: Reads, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[LotAnswer]:
        """The lots that can be spent now, by wallet in the order in which they are."""
        after = _place(cursor) if cursor else None
        async with reading.state(access, caller.tenant) as connection:
            at = (await known(connection, caller.tenant, contact)).instant(access.now())
            rows = await open_lots(connection, caller.tenant, contact, at, limit + 1, after)
        keys = [(row.wallet, _text(row.expires_at), row.earned_at, row.number) for row in rows]
        return BY_BURN_ORDER.page([lot_answer(row) for row in rows], list(keys), limit)


def _text(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat()


def _place(cursor: str) -> BurnPlace:
    """Where a page of lots goes on. Raises BadCursor."""
    wallet, expires, earned_at, number = BY_BURN_ORDER.decode(cursor)
    if not expires:
        return BurnPlace(wallet, None, earned_at, number)
    try:
        expires_at = datetime.fromisoformat(expires)
        if expires_at.tzinfo is None:
            raise ValueError("a time without zone")
    except ValueError:
        raise BadCursor(DETAIL) from None
    return BurnPlace(wallet, expires_at, earned_at, number)


async def _wallets(
    connection: Connection, tenant: str, contact: str, at: datetime, *, history: bool
) -> list[WalletAnswer]:
    rows: Sequence[Balance | BalanceAsOf]
    if history:
        rows = await balances_as_of(connection, tenant, contact, at)
        next_ones = await lapsing_as_of(connection, tenant, contact, at)
    else:
        rows = await balances(connection, tenant, contact, at)
        next_ones = await lapsing_next(connection, tenant, contact, at)
    lapsing = {each.wallet: Lapsing(points=each.points, at=each.at) for each in next_ones}
    return [
        WalletAnswer(wallet=row.wallet, available=row.available, owed=row.owed, expiring_next=lapsing.get(row.wallet))
        for row in rows
    ]


async def _tier(connection: Connection, tenant: str, contact: str, at: datetime, now: datetime) -> TierAnswer | None:
    """The level at that instant: now and later as a decision then would see it, before as it was recorded."""
    tier = await tier_of(connection, tenant, contact)
    if tier is None:
        return None
    versions = await published_versions(connection, tenant)
    if at < now and (tier.review_at is None or at < tier.review_at):
        step = await tier_as_of(connection, tenant, contact, at)
        if step is None:
            return None
        name = _name(versions, step.to_level, at)
        return TierAnswer(level=step.to_level, name=name, qualified=None, next=None, review_at=step.review_at)
    settings = await settings_of(connection, tenant)
    zone = TenantSettings(name="-").zone if settings is None else settings.zone
    standing = standing_at(tier, versions, zone, at)
    above = None
    if standing.next_level:
        name = _name(versions, standing.next_level, at)
        above = NextLevel(level=standing.next_level, name=name, missing=standing.missing)
    return TierAnswer(
        level=standing.level,
        name=_name(versions, standing.level, at),
        qualified=standing.qualified,
        next=above,
        review_at=standing.review_at,
    )


def _name(versions: Sequence[PublishedRow], code: str, at: datetime) -> str:
    version = version_at(versions, at)
    tiers = None if version is None else compiled_from(version.document).document.tiers
    levels: Sequence[Level] = () if tiers is None else tiers.levels
    return next((level.name for level in levels if level.code == code), "")
