"""The points API on a real stack: ledger pages, why each line is there, totals at any instant, tiers, programs."""

from datetime import timedelta
from typing import Any

import pytest

from services.points.programs.sample import SAMPLE_PROGRAM
from tests.points.api_shop import OPENED, SOURCE, Shop, opened_shop, refused
from tests.stack import Stack


@pytest.fixture(scope="module")
async def shop(stack: Stack) -> Shop:
    return await opened_shop(stack, "acme")


async def pages(shop: Shop, path: str, limit: int) -> list[Any]:
    """All rows of a list, read in pages of `limit`."""
    found, cursor = [], ""
    while True:
        page = await shop.get(f"{path}?limit={limit}{cursor}")
        assert len(page["items"]) <= limit
        found += page["items"]
        if page["next"] is None:
            return found
        assert len(page["items"]) == limit
        cursor = f"&cursor={page['next']}"


async def test_a_ledger_is_read_in_pages_the_latest_entry_first(shop: Shop) -> None:
    for number in range(4):
        await shop.buy("pages", 10_000 + number * 100)
    contact = await shop.contact("pages")
    path = f"/v1/members/{contact}/ledger"
    whole = (await shop.get(path))["items"]
    assert [entry["number"] for entry in whole] == list(range(9, 0, -1))
    assert (
        whole[-1] | {"fact": "", "cause": "", "recorded_at": "", "event_id": "", "order_id": ""}
        == {
            "entry": f"{contact}:1",
            "number": 1,
            "wallet": "points",
            "points": 100,
            "change": 100,
            "source": "program:issued",
            "destination": "member:available",
            "lot": f"{contact}:1",
            "program": "club",
            "version": 1,
            "rule": "dollar",
            "line_id": "1",
            "channel": "web",
            "order_id": "",
            "event_source": SOURCE,
            "event_id": "",
            "fact": "",
            "fact_type": "points.earned.v1",
            "reference": "",
            "by": "",
            "effective_at": "2026-01-05T12:00:00Z",
            "recorded_at": "",
            "cause": "",
        }
        or whole[-1]["rule"] == "welcome"
    )
    for limit in (1, 2, 3, 9, 200):
        assert await pages(shop, path, limit) == whole
    status = (await shop.get(f"{path}?wallet=status"))["items"]
    assert [entry["points"] for entry in status] == [103, 102, 101, 100]
    assert (await shop.get(f"{path}?wallet=miles"))["items"] == []


async def test_lots_are_read_in_pages_in_burn_order(stack: Stack) -> None:
    shop = await opened_shop(stack, "lots", effective_from="2025-01-01T00:00:00Z")
    for days, dollars in ((0, 30), (40, 20), (40, 10), (70, 40)):
        await shop.buy("lots", dollars * 100, at=OPENED - timedelta(days=days))
    contact = await shop.contact("lots")
    path = f"/v1/members/{contact}/lots"
    whole = (await shop.get(path))["items"]
    assert [lot["wallet"] for lot in whole] == ["points"] * (len(whole) - 1) + ["status"]
    burn = [(lot["expires_at"], lot["earned_at"]) for lot in whole[:-1]]
    assert burn == sorted(burn)
    assert len({lot["expires_at"] for lot in whole[:-1]}) > 1
    for limit in (1, 2, 3, 200):
        assert await pages(shop, path, limit) == whole


async def test_a_line_is_explained_by_its_rule_its_event_and_what_became_of_its_lot(shop: Shop) -> None:
    event = await shop.buy("why", 40_000, order_id="why-1")
    contact = await shop.contact("why")
    await shop.post("/v1/redemptions", {"contact": contact, "points": 400, "reference": "till 7"})
    refund = await shop.refund("why", "why-1", quantity=1)
    entries = {entry["number"]: entry for entry in (await shop.get(f"/v1/members/{contact}/ledger"))["items"]}
    earned = min((entry for entry in entries.values() if entry["rule"] == "dollar"), key=lambda entry: entry["number"])
    explained = await shop.get(f"/v1/explain/entries/{earned['entry']}")
    assert explained["entry"] == earned
    rule = explained["rule"]
    assert (rule["rule"], rule["program"], rule["version"]) == ("dollar", "club", 1)
    assert rule["definition"]["effect"]["per_minor"] == 100
    assert rule["inputs"]
    assert (explained["event"]["event_id"], explained["event"]["order_id"]) == (event, "why-1")
    assert explained["lot"]["lot"] == earned["lot"]
    assert (explained["lot"]["earned"], explained["complete"]) == (400, True)
    became = [(entry["fact_type"], entry["change"]) for entry in explained["lot_entries"]]
    assert became[0] == ("points.earned.v1", 400)
    assert {kind for kind, _ in became[1:]} <= {"points.redeemed.v1", "points.reversed.v1"}
    assert 400 + sum(change for _, change in became[1:]) == explained["lot"]["remaining"]
    redeemed = next(entry for entry in entries.values() if entry["fact_type"] == "points.redeemed.v1")
    spent = await shop.get(f"/v1/explain/entries/{redeemed['entry']}")
    assert (spent["event"], spent["rule"]["definition"], spent["entry"]["reference"]) == (None, None, "till 7")
    assert spent["lot_entries"][0]["event_id"] == event
    (returned,) = (await shop.get(f"/v1/explain/events/{refund}?rule=dollar"))["items"]
    assert (returned["reason"], returned["rules"], returned["program"]) == ("reversed", [], "")
    (reversal,) = returned["reversals"]
    assert (reversal["entry"], reversal["points"]) == (earned["entry"], 200)
    line = next(entry for entry in entries.values() if entry["fact_type"] == "points.reversed.v1")
    back = await shop.get(f"/v1/explain/entries/{line['entry']}")
    assert (back["event"]["event_id"], back["event"]["event_type"]) == (refund, "purchase.refunded.v1")


async def test_an_event_is_explained_rule_by_rule_also_where_none_fired(shop: Shop) -> None:
    first = await shop.buy("rules", 1_000)
    second = await shop.buy("rules", 1_050)
    (item,) = (await shop.get(f"/v1/explain/events/{second}"))["items"]
    fired = {rule["rule"]: (rule["fired"], rule["reason"]) for rule in item["rules"]}
    assert fired["dollar"] == (True, "fired")
    assert fired["welcome"][0] is False
    assert fired["member_day"][0] is False
    assert "fired" not in (fired["welcome"][1], fired["member_day"][1])
    assert (item["reason"], item["program"], item["version"]) == ("evaluated", "club", 1)
    (only,) = (await shop.get(f"/v1/explain/events/{first}?rule=welcome&source={SOURCE}"))["items"]
    assert [(rule["rule"], rule["fired"]) for rule in only["rules"]] == [("welcome", True)]
    refused(await shop.ask("GET", f"/v1/explain/events/{first}?rule=unheard"), 404, "not-found")
    refused(await shop.ask("GET", f"/v1/explain/events/{first}?source=elsewhere"), 404, "not-found")
    refused(await shop.ask("GET", "/v1/explain/events/https://never/heard"), 404, "not-found")


async def test_an_event_without_a_program_says_so(stack: Stack) -> None:
    shop = Shop("bare", await stack.tenant("bare", clock_at=OPENED.isoformat()))
    event = await shop.buy("li", 1_000)
    (item,) = (await shop.get(f"/v1/explain/events/{event}?rule=any"))["items"]
    assert (item["reason"], item["rules"], item["program"]) == ("no-program", [], "")
    contact = await shop.contact("li")
    member = await shop.member(contact)
    assert (member["wallets"], member["tier"]) == ([], None)
    refused(await shop.ask("POST", "/v1/redemptions", {"contact": contact, "points": 100}), 409, "no-program")
    assert (await shop.get("/v1/tiers"))["levels"] == []


@pytest.mark.parametrize("entry", ["nobody:1", "nobody", ":1", "nobody:-1", "nobody:1e3", "nobody:" + "9" * 40, "a:١"])
async def test_a_ledger_line_that_there_is_not(shop: Shop, entry: str) -> None:
    assert "ledger" in refused(await shop.ask("GET", f"/v1/explain/entries/{entry}"), 404, "not-found")["detail"]


async def test_totals_balance_now_and_as_of_any_instant_and_as_known_at_any(stack: Stack) -> None:
    shop = await opened_shop(stack, "books")
    await shop.buy("li", 40_000, order_id="o-li")
    await shop.pass_days(1)
    await shop.buy("wang", 10_000, at=OPENED + timedelta(hours=1))
    li = await shop.contact("li")
    await shop.post("/v1/redemptions", {"contact": li, "points": 300})
    await shop.post("/v1/adjustments", {"contact": li, "wallet": "points", "points": 20, "reason": "late parcel"})
    await shop.refund("li", "o-li", quantity=2)
    totals = await shop.get("/v1/totals")
    points, status = totals["wallets"]
    assert points == {
        "wallet": "points",
        "members": 2,
        "issued": 600,
        "redeemed": 300,
        "lapsed": 0,
        "adjusted": 20,
        "reversed": points["reversed"],
        "owed": 0,
        "outstanding": 320 - points["reversed"],
    }
    assert 0 < points["reversed"] <= 170
    assert (status["issued"], status["reversed"], status["outstanding"]) == (500, 400, 100)
    assert (totals["postings_sum"], totals["balanced"]) == (0, True)

    async def issued(**query: Any) -> list[int]:
        asked = "&".join(f"{name}={at:%Y-%m-%dT%H:%M:%SZ}" for name, at in query.items())
        found = await shop.get(f"/v1/totals?{asked}")
        assert (found["postings_sum"], found["balanced"]) == (0, True)
        return [wallet["issued"] for wallet in found["wallets"]]

    assert (await shop.get(f"/v1/totals?as_of={shop.at:%Y-%m-%dT%H:%M:%SZ}"))["wallets"] == [points, status]
    assert await issued(as_of=OPENED) == [450, 400]
    assert await issued(as_of=OPENED + timedelta(hours=2)) == [600, 500]
    assert await issued(as_of=OPENED + timedelta(hours=2), known_at=OPENED + timedelta(hours=3)) == [450, 400]
    assert await issued(known_at=OPENED - timedelta(days=1)) == []
    ahead = (await shop.get("/v1/totals?as_of=2030-01-01T00:00:00Z"))["wallets"][0]
    assert (ahead["lapsed"], ahead["outstanding"]) == (points["outstanding"], 0)
    path = f"/v1/members/{await shop.contact('wang')}/ledger"
    assert len((await shop.get(path))["items"]) == 3
    assert (await shop.get(f"{path}?known_at=2026-01-05T15:00:00Z"))["items"] == []
    assert (await shop.get(f"{path}?as_of=2026-01-05T12:30:00Z"))["items"] == []


async def test_members_are_counted_per_level_from_the_lowest(stack: Stack) -> None:
    shop = await opened_shop(stack, "levels")
    for reference, dollars in (("a", 10), ("b", 120), ("c", 130), ("d", 2_000)):
        await shop.buy(reference, dollars * 100)
    levels = (await shop.get("/v1/tiers"))["levels"]
    assert [(each["level"], each["members"], each["threshold"]) for each in levels] == [
        ("member", 1, 0),
        ("silver", 2, 100),
        ("gold", 0, 300),
        ("platinum", 1, 1000),
    ]
    assert levels[0] == {
        "tiers": "club",
        "level": "member",
        "name": "Member",
        "threshold": 0,
        "benefits": [],
        "members": 1,
        "overdue": 0,
    }


async def test_a_program_is_drafted_published_and_read_back(stack: Stack) -> None:
    shop = Shop("drafts", await stack.tenant("drafts", clock_at=OPENED.isoformat()))
    drafted = (await shop.ask("PUT", "/v1/programs/club/draft", SAMPLE_PROGRAM, Idempotency_Key="d1")).json()
    assert (drafted["program"], len(drafted["document_hash"])) == ("club", 64)
    assert await shop.get("/v1/programs/club/drafts/d1") == drafted
    (listed,) = (await shop.get("/v1/programs"))["items"]
    assert (listed["program"], listed["name"], listed["versions"], listed["in_force"]) == (
        "club",
        "Record Club",
        0,
        None,
    )
    first = await shop.post("/v1/programs/club/publish", {"by": "li"}, Idempotency_Key="p1")
    again = await shop.post("/v1/programs/club/publish", {"by": "li"}, Idempotency_Key="p1")
    assert first == again == await shop.get("/v1/programs/club/publications/p1")
    assert (first["version"], first["by"], first["document_hash"]) == (1, "li", drafted["document_hash"])
    assert first["effective_from"] == "2026-01-05T12:00:00Z"
    second = await shop.publish({**SAMPLE_PROGRAM, "name": "Club II"}, effective_from="2026-03-01T08:00:00+08:00")
    assert (second["version"], second["effective_from"]) == (2, "2026-03-01T00:00:00Z")
    whole = await shop.get("/v1/programs/club")
    assert (whole["name"], whole["versions"], whole["in_force"]) == ("Club II", 2, 1)
    assert [(each["version"], each["in_force"]) for each in whole["published"]] == [(2, False), (1, True)]
    version = await shop.get("/v1/programs/club/versions/1")
    assert (version["document"]["name"], version["document_hash"]) == ("Record Club", first["document_hash"])
    await shop.ask("PUT", "/v1/programs/another/draft", SAMPLE_PROGRAM)
    assert [each["program"] for each in await pages(shop, "/v1/programs", 1)] == ["another", "club"]
    other = refused(await shop.ask("POST", "/v1/programs/another/publish", {}), 409, "another-program")
    assert other["program"] == "club"
    refused(await shop.ask("GET", "/v1/programs/another/drafts/d1"), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/programs/unheard", 404, "not-found"),
        ("GET", "/v1/programs/club/versions/99", 404, "not-found"),
        ("GET", "/v1/programs/club/versions/0", 422, "invalid-request"),
        ("GET", "/v1/programs/club/versions/99999999999999999999", 422, "invalid-request"),
        ("POST", "/v1/programs/unheard/publish", 409, "no-draft"),
        ("POST", "/v1/programs/No Name/publish", 422, "invalid-request"),
    ],
)
async def test_a_program_that_there_is_not(shop: Shop, method: str, path: str, status: int, code: str) -> None:
    refused(await shop.ask(method, path, {} if method == "POST" else None), status, code)


async def test_a_document_is_refused_with_every_problem_and_nothing_is_kept(shop: Shop) -> None:
    before = await shop.get("/v1/programs")
    redemption = {"wallet": "status", "minor_per_point": 1, "minimum_points": 10, "step_points": 100}
    rules = [{**SAMPLE_PROGRAM["rules"][0], "when": "event.dya == 15"}]
    document = {**SAMPLE_PROGRAM, "redemption": redemption, "rules": rules}
    problem = refused(await shop.ask("PUT", "/v1/programs/club/draft", document), 422, "program-invalid")
    found = {(each["path"], each["code"]) for each in problem["problems"]}
    assert found == {
        ("rules.dollar.when", "condition-invalid"),
        ("redemption.wallet", "wallet-not-redeemable"),
        ("redemption.minimum_points", "minimum-off-step"),
    }
    assert all(each["detail"] for each in problem["problems"])
    assert await shop.get("/v1/programs") == before
    long = {**SAMPLE_PROGRAM["tiers"], "levels": [_level(number) for number in range(50)]}
    too_large = await shop.ask("PUT", "/v1/programs/club/draft", {**SAMPLE_PROGRAM, "tiers": long})
    assert "200000 bytes" in refused(too_large, 422, "program-too-large")["detail"]


def _level(number: int) -> dict[str, Any]:
    return {"code": f"l{number}", "name": "龍" * 200, "threshold": number, "benefits": ["龍" * 200] * 10}


async def test_a_new_version_earns_from_its_first_purchase_on_whatever_the_partition(stack: Stack) -> None:
    shop = await opened_shop(stack, "doubled")
    dollar, *others = SAMPLE_PROGRAM["rules"]
    doubled = {**dollar, "effect": {**dollar["effect"], "points": 2}}
    await shop.publish({**SAMPLE_PROGRAM, "rules": [doubled, *others]})
    for number in range(12):
        await shop.buy(f"c{number}", 10_000)
    totals = await shop.get("/v1/totals")
    assert totals["wallets"][0]["issued"] == 12 * (200 + 50)
