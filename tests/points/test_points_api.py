"""The points API on a real database, a real log and real workers: members, redemptions, adjustments."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.points.programs.sample import SAMPLE_PROGRAM
from shared.http.position import POSITION_HEADER, PositionToken
from tests.points.api_shop import OPENED, Shop, by_reference, opened_shop, refused
from tests.stack import Stack


@pytest.fixture(scope="module")
async def shop(stack: Stack) -> Shop:
    return await opened_shop(stack, "acme")


@pytest.fixture(scope="module")
async def other(stack: Stack) -> Shop:
    return await opened_shop(stack, "other")


async def member_with(shop: Shop, reference: str, dollars: int) -> str:
    """A new member who bought once; the welcome bonus gives 50 more points."""
    await shop.buy(reference, dollars * 100)
    return await shop.contact(reference)


async def test_a_purchase_is_seen_by_whoever_reads_after_its_position(shop: Shop) -> None:
    contact = await member_with(shop, "first", 120)
    member = await shop.member(contact)
    assert member["contact"] == contact
    points, status = member["wallets"]
    assert (points["wallet"], points["available"], points["owed"]) == ("points", 170, 0)
    assert points["expiring_next"] == {"points": 170, "at": "2027-02-01T00:00:00Z"}
    assert (status["wallet"], status["available"], status["expiring_next"]) == ("status", 120, None)
    tier = member["tier"]
    assert (tier["level"], tier["name"], tier["qualified"]) == ("silver", "Silver", 120)
    assert tier["next"] == {"level": "gold", "name": "Gold", "missing": 180}
    assert tier["review_at"] == "2026-07-01T00:00:00Z"


@pytest.mark.parametrize(
    ("identity", "same"),
    [
        ({"kind": "email", "value": " Li@Example.COM "}, True),
        ({"kind": "phone", "value": "+86 138-0013-8000"}, True),
        (by_reference("li"), True),
        ({"kind": "email", "value": "wang@example.com"}, False),
        (by_reference("nobody"), False),
    ],
)
async def test_a_contact_is_found_by_what_the_till_can_read(shop: Shop, identity: Any, same: bool) -> None:
    await shop.buy("li", 100, email="li@example.com", phone="+8613800138000")
    answer = await shop.ask("POST", "/v1/members/lookup", {"identity": identity})
    if not same:
        assert "Regulars-After" in refused(answer, 404, "not-found")["detail"]
        return
    assert (answer.status_code, answer.json()) == (200, {"contact": await shop.contact("li")})


@pytest.mark.parametrize(
    ("identity", "field"),
    [
        ({"kind": "email", "value": "nonsense"}, "body.identity.value"),
        ({"kind": "phone", "value": "13800138000"}, "body.identity.value"),
        ({"kind": "reference", "value": "without-a-source"}, "body.identity.value"),
        ({"kind": "card", "value": "4111"}, "body.identity.kind"),
        ({"kind": "email"}, "body.identity.value"),
        ({"kind": "email", "value": "a@b.cc", "more": 1}, "body.identity.more"),
    ],
)
async def test_a_malformed_identity_is_named(shop: Shop, identity: Any, field: str) -> None:
    answer = await shop.ask("POST", "/v1/members/lookup", {"identity": identity})
    assert [each["field"] for each in refused(answer, 422, "invalid-request")["errors"]] == [field]


async def test_a_redemption_takes_points_in_burn_order_and_says_what_is_left(shop: Shop) -> None:
    contact = await member_with(shop, "spender", 400)
    asked = {"identity": by_reference("spender"), "points": 300, "reference": "till 7, 1002"}
    answer = await shop.ask("POST", "/v1/redemptions", asked)
    assert answer.status_code == 201, answer.text
    redeemed = answer.json()
    assert redeemed.pop("redemption")
    lots = redeemed.pop("lots")
    assert sum(lot["points"] for lot in lots) == 300
    assert all(lot["lot"].startswith(f"{contact}:") for lot in lots)
    assert redeemed == {
        "contact": contact,
        "wallet": "points",
        "points": 300,
        "worth_minor": 300,
        "currency": "USD",
        "reference": "till 7, 1002",
        "balance_after": 150,
    }
    assert await shop.available(contact) == 150


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({"points": 100_000}, "not-enough-points", "150 points are available"),
        ({"points": 99}, "below-minimum", "at least 100"),
        ({"points": 150}, "not-a-step", "in steps of 100"),
        ({"points": 100, "wallet": "status"}, "wallet-not-redeemable", "redeem from points"),
        ({"points": 100, "wallet": "miles"}, "unknown-wallet", "it has points, status"),
    ],
)
async def test_a_redemption_that_a_rule_forbids_says_what_to_do(shop: Shop, body: Any, code: str, says: str) -> None:
    contact = await member_with(shop, f"denied {code}", 100)
    problem = refused(await shop.ask("POST", "/v1/redemptions", {"contact": contact, **body}), 409, code)
    assert says in problem["detail"]
    if code == "not-enough-points":
        assert (problem["available"], problem["asked"]) == (150, 100_000)
    assert await shop.available(contact) == 150


async def test_the_same_key_is_one_redemption_and_one_answer(shop: Shop) -> None:
    contact = await member_with(shop, "twice", 400)
    asked = {"contact": contact, "points": 100}
    answers = await asyncio.gather(
        *(shop.ask("POST", "/v1/redemptions", asked, Idempotency_Key="twice/1") for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert await shop.available(contact) == 350
    again = await shop.get("/v1/redemptions/twice%2F1")
    assert again == answers[0].json()


async def test_callers_at_once_cannot_spend_more_than_there_is(shop: Shop) -> None:
    contact = await member_with(shop, "crowd", 300)
    asked = {"contact": contact, "points": 100}
    answers = await asyncio.gather(*(shop.ask("POST", "/v1/redemptions", asked) for _ in range(10)))
    granted = [answer.json()["balance_after"] for answer in answers if answer.status_code == 201]
    assert sorted(granted) == [50, 150, 250]
    assert [answer.json()["available"] for answer in answers if answer.status_code == 409] == [50] * 7
    assert await shop.available(contact) == 50


async def test_a_tenant_on_real_time_reads_and_spends_now(stack: Stack) -> None:
    began = datetime.now(UTC)
    shop = Shop("realtime", await stack.tenant("realtime"), at=began)
    await shop.publish(effective_from=(began - timedelta(days=1)).isoformat())
    contact = await member_with(shop, "li", 400)
    redeemed = await shop.post("/v1/redemptions", {"contact": contact, "points": 100})
    member = await shop.member(contact)
    assert began <= datetime.fromisoformat(member["at"]) <= datetime.now(UTC) + timedelta(seconds=5)
    assert member["wallets"][0]["available"] == redeemed["balance_after"] == 350
    assert (await shop.member(contact, as_of=began + timedelta(days=1)))["wallets"][0]["available"] == 350


async def test_the_same_key_with_another_body_or_address_is_refused(shop: Shop) -> None:
    contact = await member_with(shop, "reused", 400)
    asked = {"contact": contact, "points": 100}
    await shop.post("/v1/redemptions", asked, Idempotency_Key="reused")
    other_body = await shop.ask("POST", "/v1/redemptions", {**asked, "points": 200}, Idempotency_Key="reused")
    assert "new key" in refused(other_body, 422, "idempotency-key-reused")["detail"]
    adjustment = {"contact": contact, "points": 1, "wallet": "points", "reason": "x"}
    elsewhere = await shop.ask("POST", "/v1/adjustments", adjustment, Idempotency_Key="reused")
    refused(elsewhere, 422, "idempotency-key-reused")
    assert await shop.available(contact) == 350


async def test_a_key_that_is_taken_is_said_so_before_a_contact_that_is_not_found(shop: Shop) -> None:
    contact = await member_with(shop, "taken", 400)
    await shop.post("/v1/redemptions", {"contact": contact, "points": 100}, Idempotency_Key="taken")
    asked = {"identity": by_reference("never seen"), "points": 100}
    refused(await shop.ask("POST", "/v1/redemptions", asked, Idempotency_Key="taken"), 422, "idempotency-key-reused")
    refused(await shop.ask("POST", "/v1/redemptions", asked, Idempotency_Key="free"), 404, "not-found")
    assert await shop.available(contact) == 350


async def test_a_refusal_is_repeated_too(shop: Shop) -> None:
    contact = await member_with(shop, "poor", 10)
    asked = {"contact": contact, "points": 1_000}
    first = await shop.ask("POST", "/v1/redemptions", asked, Idempotency_Key="poor")
    await shop.buy("poor", 1_000_000)
    second = await shop.ask("POST", "/v1/redemptions", asked, Idempotency_Key="poor")
    later = await shop.ask("GET", "/v1/redemptions/poor")
    for answer in (first, second, later):
        assert refused(answer, 409, "not-enough-points")["available"] == 60
    refused(await shop.ask("GET", "/v1/adjustments/poor"), 404, "not-found")


async def test_without_a_wait_the_outcome_is_found_at_the_location(shop: Shop) -> None:
    contact = await member_with(shop, "hasty", 400)
    asked = {"contact": contact, "points": 200}
    # The contact must be known before it is appended, so the position is awaited first.
    answer = await shop.ask("POST", "/v1/redemptions", asked, Prefer="wait=0", Idempotency_Key="hasty/2")
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted"})
    assert answer.headers["Location"] == "/v1/redemptions/hasty%2F2"
    assert answer.headers["Idempotency-Key"] == "hasty/2"
    assert answer.headers[POSITION_HEADER]
    outcome = await shop.get(answer.headers["Location"])
    assert (outcome["contact"], outcome["points"], outcome["balance_after"]) == (contact, 200, 250)
    assert await shop.available(contact) == 250
    adjusted = {"contact": contact, "points": 50, "wallet": "points", "reason": "goodwill"}
    answer = await shop.ask("POST", "/v1/adjustments", adjusted, Prefer="wait=0")
    assert answer.status_code == 202
    outcome = await shop.get(answer.headers["Location"])
    assert (outcome["contact"], outcome["points"], outcome["reason"]) == (contact, 50, "goodwill")


@pytest.mark.parametrize("path", ["/v1/redemptions/never", "/v1/adjustments/never", "/v1/programs/club/drafts/never"])
async def test_a_key_that_was_never_used_is_not_found(shop: Shop, path: str) -> None:
    assert "check it" in refused(await shop.ask("GET", path), 404, "not-found")["detail"]


async def test_points_are_given_and_taken_by_hand_with_a_reason(shop: Shop) -> None:
    contact = await member_with(shop, "adjusted", 10)
    given = await shop.post(
        "/v1/adjustments", {"contact": contact, "wallet": "points", "points": 40, "reason": "late parcel", "by": "li"}
    )
    assert given.pop("adjustment")
    (lot,) = given.pop("lots")
    assert lot["points"] == 40
    assert given == {
        "contact": contact,
        "wallet": "points",
        "points": 40,
        "reason": "late parcel",
        "by": "li",
        "repaid": 0,
        "expires_at": "2027-02-01T00:00:00Z",
    }
    taken = await shop.post(
        "/v1/adjustments",
        {"identity": by_reference("adjusted"), "wallet": "points", "points": -30, "reason": "typing error"},
    )
    assert (taken["points"], taken["by"] != "") == (-30, True)
    assert await shop.available(contact) == 70


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"points": -1_000}, "not-enough-points"),
        ({"points": 0}, "points-zero"),
        ({"points": 1, "reason": "   "}, "reason-missing"),
        ({"points": 1, "wallet": "miles"}, "unknown-wallet"),
        ({"points": 10**15}, "balance-too-large"),
    ],
)
async def test_an_adjustment_that_a_rule_forbids(shop: Shop, body: Any, code: str) -> None:
    contact = await member_with(shop, f"fixed {code}", 10)
    asked = {"contact": contact, "wallet": "points", "reason": "test", **body}
    refused(await shop.ask("POST", "/v1/adjustments", asked), 409, code)
    assert await shop.available(contact) == 60


@pytest.mark.parametrize(
    "path", ["/v1/members/nobody", "/v1/members/nobody/ledger", "/v1/members/nobody/lots", "/v1/members/a%2Fb"]
)
async def test_a_contact_that_points_never_heard_of_is_not_found(shop: Shop, path: str) -> None:
    refused(await shop.ask("GET", path), 404, "not-found")


async def test_nothing_of_one_tenant_is_seen_or_moved_by_another(shop: Shop, other: Shop) -> None:
    contact = await member_with(shop, "private", 400)
    event = await shop.buy("private", 100)
    entry = (await shop.get(f"/v1/members/{contact}/ledger"))["items"][0]["entry"]
    await shop.post("/v1/redemptions", {"contact": contact, "points": 100}, Idempotency_Key="private")
    for path in (
        f"/v1/members/{contact}",
        f"/v1/members/{contact}/ledger",
        f"/v1/members/{contact}/lots",
        f"/v1/explain/entries/{entry}",
        f"/v1/explain/events/{event}",
        "/v1/redemptions/private",
        "/v1/programs/unheard",
    ):
        refused(await other.ask("GET", path), 404, "not-found")
    refused(await other.ask("POST", "/v1/redemptions", {"contact": contact, "points": 100}), 404, "not-found")
    by_identity = {"identity": by_reference("private"), "points": 100}
    refused(await other.ask("POST", "/v1/redemptions", by_identity), 404, "not-found")
    taken = {"contact": contact, "wallet": "points", "points": -1, "reason": "theft"}
    refused(await other.ask("POST", "/v1/adjustments", taken), 404, "not-found")
    assert (await other.get("/v1/totals"))["wallets"] == []
    assert await shop.available(contact) == 351


async def test_a_key_needs_the_scope(shop: Shop, stack: Stack) -> None:
    issued = await shop.post("/v1/credentials", {"name": "reader", "scopes": ["points:read"]})
    reader = Shop("reader", stack.as_key(issued["api_key"]), position=shop.position)
    contact = await member_with(shop, "scoped", 400)
    answer = await reader.ask("POST", "/v1/redemptions", {"contact": contact, "points": 100})
    assert "points:write" in refused(answer, 403, "missing-scope")["detail"]
    refused(await reader.ask("PUT", "/v1/programs/club/draft", {}), 403, "missing-scope")
    assert (await reader.ask("GET", "/v1/tiers")).status_code == 200
    refused(await Shop("nobody", stack.client).ask("GET", "/v1/totals"), 401, "unauthenticated")


async def test_a_position_ahead_of_the_log_and_one_that_is_none_are_refused(shop: Shop) -> None:
    ahead = PositionToken({}, {0: 10**12}).encode()
    refused(await shop.ask("GET", "/v1/totals", Regulars_After=ahead, Prefer="wait=0"), 400, "bad-position")
    refused(await shop.ask("GET", "/v1/totals", Regulars_After="nonsense"), 400, "bad-position")
    doors = PositionToken({"door": {0: 0}}).encode()
    problem = refused(await shop.ask("GET", "/v1/totals", Regulars_After=doors), 400, "bad-position")
    assert "Only door" in problem["detail"]


async def test_balances_tiers_and_what_lapses_are_known_as_of_any_instant(stack: Stack) -> None:
    shop = await opened_shop(stack, "history")
    contact = await member_with(shop, "li", 120)
    await shop.pass_days(2)
    await shop.buy("li", 20_000)
    await shop.pass_days(1)
    await shop.post("/v1/redemptions", {"contact": contact, "points": 300})
    now = await shop.member(contact)
    assert [await shop.available(contact, as_of=OPENED + timedelta(days=day)) for day in (-1, 0, 1, 2, 3)] == [
        0,
        170,
        170,
        370,
        70,
    ]
    same = await shop.member(contact, as_of=shop.at)
    assert (same["wallets"], same["tier"]) == (now["wallets"], now["tier"])
    before = (await shop.member(contact, as_of=OPENED + timedelta(days=1)))["tier"]
    assert (before["level"], before["name"], before["qualified"]) == ("silver", "Silver", None)
    assert (now["tier"]["level"], now["tier"]["qualified"]) == ("gold", 320)
    early = await shop.member(contact, as_of=OPENED - timedelta(days=1))
    assert (early["wallets"], early["tier"]) == ([], None)
    later = await shop.member(contact, as_of=OPENED + timedelta(days=400))
    assert [wallet["available"] for wallet in later["wallets"]] == [0, 320]
    assert later["wallets"][0]["expiring_next"] is None


async def test_what_has_lapsed_by_the_clock_cannot_be_spent_and_is_not_shown(stack: Stack) -> None:
    document = {**SAMPLE_PROGRAM, "wallets": [_wallet("points", days=3), _wallet("status")]}
    shop = Shop("lapsing", await stack.tenant("lapsing", clock_at=OPENED.isoformat()))
    await shop.publish(document)
    contact = await member_with(shop, "li", 400)
    await shop.pass_days(2)
    await shop.buy("li", 10_000)
    await shop.pass_days(1)
    member = await shop.member(contact)
    assert member["wallets"][0]["available"] == 100
    assert member["wallets"][0]["expiring_next"] == {"points": 100, "at": "2026-01-10T12:00:00Z"}
    lots = (await shop.get(f"/v1/members/{contact}/lots"))["items"]
    assert [(lot["wallet"], lot["remaining"]) for lot in lots] == [("points", 100), ("status", 500)]
    problem = refused(
        await shop.ask("POST", "/v1/redemptions", {"contact": contact, "points": 200}), 409, "not-enough-points"
    )
    assert problem["available"] == 100
    totals = await shop.get("/v1/totals")
    points = totals["wallets"][0]
    assert (points["issued"], points["lapsed"], points["outstanding"]) == (550, 450, 100)
    assert (totals["balanced"], totals["postings_sum"]) == (True, 0)


def _wallet(code: str, days: int = 0) -> dict[str, Any]:
    kind = "redeemable" if days else "qualifying"
    expiry = {"kind": "rolling", "days": days} if days else {"kind": "never"}
    return {"code": code, "kind": kind, "name": code.title(), "expiry": expiry}
