"""Dates as a shop means them: calendar arithmetic in the tenant's zone, answers as instants in UTC.

An end is exclusive: what holds "until the end of March" ends at 00:00 of 1 April in the zone. A wall time that a
clock change repeats means its first occurrence; one that a clock change skips is as long after the change as it would
have been after the hour that is missing (PEP 495, fold 0).
"""

from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta
from typing import assert_never
from zoneinfo import ZoneInfo

from services.points.programs.document import CalendarExpiry, Expiry, NeverExpires, Review, RollingExpiry

_LAST_YEAR = 9_998


def local_time(at: datetime, zone: str) -> datetime:
    """That instant on the zone's clock; in UTC on the calendar's first and last day, which a zone may not have."""
    try:
        return at.astimezone(ZoneInfo(zone))
    except OverflowError:
        return at.astimezone(UTC)


def day_of(year: int, month: int, day: int) -> date:
    """That day, or the month's last day if the month is shorter: 29 February becomes 28."""
    return date(year, month, day if day <= 28 else min(day, monthrange(year, month)[1]))


def months_after(day: date, months: int) -> date:
    """The same day of a later month, or that month's last day."""
    index = day.year * 12 + day.month - 1 + months
    return day_of(index // 12, index % 12 + 1, day.day)


def starts_at(day: date, zone: str) -> datetime:
    """00:00 of that day in the zone."""
    return datetime.combine(day, time(), ZoneInfo(zone)).astimezone(UTC)


def expires_at(expiry: Expiry, earned_at: datetime, zone: str) -> datetime | None:
    """The first instant at which points earned at `earned_at` are gone; None means never."""
    match expiry:
        case NeverExpires():
            return None
        case RollingExpiry():
            return _rolling(expiry, earned_at, zone)
        case CalendarExpiry():
            year = local_time(earned_at, zone).year + expiry.years_after
            if year > _LAST_YEAR:
                return None
            return starts_at(day_of(year, expiry.month, expiry.day) + timedelta(days=1), zone)
        case _:
            assert_never(expiry)


def _rolling(expiry: RollingExpiry, earned_at: datetime, zone: str) -> datetime | None:
    local = local_time(earned_at, zone)
    if local.year + (expiry.months or 0) // 12 + (expiry.days or 0) // 365 >= _LAST_YEAR:
        return None
    if expiry.months is None:
        last = local.date() + timedelta(days=expiry.days or 0)
    else:
        last = months_after(local.date(), expiry.months)
    match expiry.round:
        case "none":
            return datetime.combine(last, local.time(), ZoneInfo(zone)).astimezone(UTC)
        case "day":
            return starts_at(last + timedelta(days=1), zone)
        case "month":
            return starts_at(months_after(last.replace(day=1), 1), zone)
        case "year":
            return starts_at(date(last.year + 1, 1, 1), zone)
        case _:
            assert_never(expiry.round)


def review_at(review: Review, joined_at: datetime, after: datetime, zone: str) -> datetime:
    """The first review later than `after`: an anniversary of joining, or the review day, at 00:00 in the zone."""
    joined = local_time(joined_at, zone).date()
    month, day = (joined.month, joined.day) if review.on_anniversary else (review.month or 1, review.day or 1)
    year = local_time(after, zone).year
    if review.on_anniversary:
        year = max(year, joined.year + 1)
    at = starts_at(day_of(year, month, day), zone)
    return at if at > after else starts_at(day_of(year + 1, month, day), zone)
