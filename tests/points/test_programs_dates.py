"""When points lapse and reviews come: month ends, leap days and clock changes, by the tenant's calendar."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.points.programs.dates import expires_at, review_at
from services.points.programs.document import Expiry, NeverExpires, Review, RollingExpiry

EXPIRY: TypeAdapter[Expiry] = TypeAdapter(Expiry)
ZONES = ["UTC", "Asia/Shanghai", "America/New_York", "America/Havana", "Africa/Cairo", "Pacific/Apia", "Asia/Kathmandu"]

instants = st.integers(0, 100 * 365 * 86_400).map(
    lambda second: datetime(1990, 1, 1, tzinfo=UTC) + timedelta(0, second)
)
rounded = st.builds(
    RollingExpiry, kind=st.just("rolling"), months=st.integers(1, 60), round=st.sampled_from(["day", "month", "year"])
)


def lapses(expiry: dict[str, Any], earned: str, zone: str) -> str:
    at = expires_at(EXPIRY.validate_python(expiry), datetime.fromisoformat(earned), zone)
    return "never" if at is None else at.astimezone(ZoneInfo(zone)).isoformat()


@pytest.mark.parametrize(
    ("expiry", "zone", "earned", "lapse"),
    [
        ({"kind": "never"}, "UTC", "2026-01-01T00:00:00Z", "never"),
        ({"kind": "rolling", "months": 1}, "UTC", "2026-01-31T10:00:00Z", "2026-02-28T10:00:00+00:00"),
        ({"kind": "rolling", "months": 1}, "UTC", "2028-01-31T10:00:00Z", "2028-02-29T10:00:00+00:00"),
        ({"kind": "rolling", "months": 12}, "UTC", "2028-02-29T10:00:00Z", "2029-02-28T10:00:00+00:00"),
        ({"kind": "rolling", "months": 12, "round": "month"}, "UTC", "2028-02-29T10:00:00Z",
         "2029-03-01T00:00:00+00:00"),
        ({"kind": "rolling", "days": 1, "round": "day"}, "UTC", "2026-12-30T00:00:00Z", "2027-01-01T00:00:00+00:00"),
        ({"kind": "rolling", "months": 11, "round": "month"}, "UTC", "2026-01-31T00:00:00Z",
         "2027-01-01T00:00:00+00:00"),
        ({"kind": "rolling", "months": 1, "round": "year"}, "UTC", "2026-12-01T00:00:00Z", "2028-01-01T00:00:00+00:00"),
        # The day is that of the zone: 20:00 UTC on 31 January is 1 February in Shanghai.
        ({"kind": "rolling", "months": 1, "round": "month"}, "Asia/Shanghai", "2026-01-31T20:00:00Z",
         "2026-04-01T00:00:00+08:00"),
        # Clocks go forward at 02:00 on 8 March 2026 and back at 02:00 on 1 November in New York.
        ({"kind": "rolling", "days": 1}, "America/New_York", "2026-03-07T12:00:00-05:00", "2026-03-08T12:00:00-04:00"),
        ({"kind": "rolling", "days": 1}, "America/New_York", "2026-03-07T02:30:00-05:00", "2026-03-08T03:30:00-04:00"),
        ({"kind": "rolling", "days": 1}, "America/New_York", "2026-10-31T01:30:00-04:00", "2026-11-01T01:30:00-04:00"),
        # Havana skips the hour after midnight on 8 March 2026: the day before ends when 8 March begins, at 01:00.
        ({"kind": "rolling", "days": 1, "round": "day"}, "America/Havana", "2026-03-06T12:00:00-05:00",
         "2026-03-08T01:00:00-04:00"),
        ({"kind": "calendar", "month": 3, "day": 31, "years_after": 1}, "UTC", "2026-12-31T23:59:59Z",
         "2027-04-01T00:00:00+00:00"),
        ({"kind": "calendar", "month": 3, "day": 31, "years_after": 1}, "Asia/Shanghai", "2026-12-31T23:59:59Z",
         "2028-04-01T00:00:00+08:00"),
        ({"kind": "calendar", "month": 2, "day": 29, "years_after": 1}, "UTC", "2026-05-01T00:00:00Z",
         "2027-03-01T00:00:00+00:00"),
        ({"kind": "calendar", "month": 2, "day": 29, "years_after": 1}, "UTC", "2027-05-01T00:00:00Z",
         "2028-03-01T00:00:00+00:00"),
        ({"kind": "calendar", "month": 12, "day": 31, "years_after": 0}, "UTC", "2026-12-31T23:59:59Z",
         "2027-01-01T00:00:00+00:00"),
        # Beyond the calendar there is no end.
        ({"kind": "rolling", "months": 1200}, "UTC", "9950-01-01T00:00:00Z", "never"),
        ({"kind": "rolling", "days": 36500}, "UTC", "9950-01-01T00:00:00Z", "never"),
        ({"kind": "calendar", "month": 12, "day": 31, "years_after": 100}, "UTC", "9950-01-01T00:00:00Z", "never"),
    ],
)  # fmt: skip
def test_points_lapse(expiry: dict[str, Any], zone: str, earned: str, lapse: str) -> None:
    assert lapses(expiry, earned, zone) == lapse


@settings(deadline=None)
@given(rounded, instants, st.timedeltas(timedelta(0), timedelta(days=900)), st.sampled_from(ZONES))
def test_who_earns_later_never_loses_earlier(
    expiry: RollingExpiry, earned: datetime, later: timedelta, zone: str
) -> None:
    first, second = expires_at(expiry, earned, zone), expires_at(expiry, earned + later, zone)
    assert first is not None
    assert second is not None
    assert earned < first <= second


@settings(deadline=None)
@given(st.integers(1, 60), instants, st.sampled_from(ZONES))
def test_rounding_only_lengthens_and_ends_at_the_start_of_a_day(months: int, earned: datetime, zone: str) -> None:
    ends = [
        expires_at(RollingExpiry(kind="rolling", months=months, round=each), earned, zone)
        for each in ("none", "day", "month", "year")
    ]
    times = [end for end in ends if end is not None]
    assert len(times) == 4
    assert times == sorted(times)
    for end in times[1:]:
        just_before = (end - timedelta(microseconds=1)).astimezone(ZoneInfo(zone))
        assert end.astimezone(ZoneInfo(zone)).date() > just_before.date()


def test_points_that_never_expire() -> None:
    assert expires_at(NeverExpires(kind="never"), datetime(2026, 1, 1, tzinfo=UTC), "UTC") is None


@pytest.mark.parametrize(
    ("review", "joined", "after", "at"),
    [
        ({"month": 1, "day": 1}, "2025-05-05T00:00:00Z", "2026-01-01T00:00:00Z", "2026-12-31T16:00:00+00:00"),
        ({"month": 7, "day": 1}, "2026-05-05T00:00:00Z", "2026-05-05T00:00:00Z", "2026-06-30T16:00:00+00:00"),
        ({"month": 7, "day": 1}, "2026-05-05T00:00:00Z", "2026-06-30T16:00:00Z", "2027-06-30T16:00:00+00:00"),
        ({"month": 2, "day": 29}, "2026-05-05T00:00:00Z", "2026-05-05T00:00:00Z", "2027-02-27T16:00:00+00:00"),
        ({"on_anniversary": True}, "2026-05-05T20:00:00Z", "2026-05-05T20:00:00Z", "2027-05-05T16:00:00+00:00"),
        ({"on_anniversary": True}, "2026-05-05T20:00:00Z", "2027-05-05T16:00:00Z", "2028-05-05T16:00:00+00:00"),
        ({"on_anniversary": True}, "2028-02-29T08:00:00Z", "2028-02-29T08:00:00Z", "2029-02-27T16:00:00+00:00"),
        ({"on_anniversary": True}, "2028-02-29T08:00:00Z", "2031-03-01T00:00:00Z", "2032-02-28T16:00:00+00:00"),
    ],
)
def test_the_next_review_in_shanghai(review: dict[str, Any], joined: str, after: str, at: str) -> None:
    found = review_at(
        Review.model_validate({"kind": "yearly", **review}),
        datetime.fromisoformat(joined),
        datetime.fromisoformat(after),
        "Asia/Shanghai",
    )
    assert found.isoformat() == at


@settings(deadline=None)
@given(
    st.one_of(
        st.just(Review(kind="yearly", on_anniversary=True)),
        st.builds(Review, kind=st.just("yearly"), month=st.integers(1, 12), day=st.integers(1, 31)),
    ),
    instants,
    st.timedeltas(timedelta(0), timedelta(days=4000)),
    st.sampled_from(ZONES),
)
def test_reviews_come_once_a_year(review: Review, joined: datetime, gone: timedelta, zone: str) -> None:
    after = joined + gone
    at = review_at(review, joined, after, zone)
    then = review_at(review, joined, at, zone)
    assert after < at
    assert timedelta(days=363) < then - at < timedelta(days=368)
    assert review_at(review, joined, at - timedelta(microseconds=1), zone) == at
