"""The door's API when something behind it stands still: nothing accepted is lost, and no answer says too much."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic

import asyncpg
import httpx
import pytest

from services.contacts.app import routers
from services.contacts.door.store import find_unpublished
from services.contacts.service import SERVICE
from shared.http.admission import Admission
from shared.http.app import build_app
from shared.http.database import api_pool
from shared.log.lanes import Lanes
from shared.log.port import PARTITIONS, AppendFailed, At, Entry, EntryRefused, LogError, LogUnavailable
from shared.runtime.front import Front
from shared.runtime.postgres_store import PostgresStore
from shared.service import Access
from shared.telemetry import Metrics
from tests.contacts.door_driver import NOW, SOURCE
from tests.contacts.test_door_delivery import bought
from tests.stack import ROOMY, Stack, running_stack

PARAMS = {"source": SOURCE, "id": "e1"}


async def test_what_was_accepted_while_no_worker_ran_is_decided_when_one_does(database_url: str) -> None:
    async with running_stack(database_url, [SERVICE]) as stack:
        shop = await stack.tenant("acme", clock_at=NOW.isoformat())
        key = shop.headers["Authorization"]
        await stack.stop()
        briefly = {"Prefer": "wait=1"}
        one = await shop.post("/v1/events", json=bought(), headers=briefly)
        assert (one.status_code, one.json()["status"], one.headers["Location"]) == (
            202,
            "accepted",
            one.json()["receipt"],
        )
        batch = await shop.post("/v1/events", json=[bought(), {**bought(), "id": "e2"}, 7], headers=briefly)
        assert batch.status_code == 202
        assert [item["status"] for item in batch.json()["items"]] == ["accepted", "accepted", "invalid"]
        clock = await shop.post("/v1/clock", json={"to": "2026-01-02T13:00:00Z"}, headers=briefly)
        assert clock.status_code == 202
        after = {"Regulars-After": batch.headers["Regulars-Position"]}
        late = await shop.get("/v1/events", params=PARAMS, headers=after | {"Prefer": "wait=0"})
        assert (late.status_code, late.json()["type"]) == (503, "/problems/not-caught-up")
        assert late.headers["Retry-After"]
    async with running_stack(database_url, [SERVICE]) as stack:
        shop = stack.as_key(key.removeprefix("Bearer "))
        told = await shop.get("/v1/events", params=PARAMS, headers=after)
        assert (told.json()["outcome"], told.json()["conflicts"]) == ("recorded", 0)
        second = await shop.get("/v1/events", params={**PARAMS, "id": "e2"}, headers=after)
        assert second.json()["outcome"] == "duplicate"
        moved = {"Regulars-After": clock.headers["Regulars-Position"]}
        assert (await shop.get("/v1/clock", headers=moved)).json()["at"] == "2026-01-02T13:00:00Z"
        await stack.assert_proven()


class Failing:
    """An appender that fails for one event."""

    def __init__(self, inner: Lanes, failing_id: str, error: LogError) -> None:
        self._inner, self._failing_id, self._error = inner, failing_id, error

    async def append(self, at: At, entry: Entry) -> int:
        if json.loads(entry.value or b"{}")["id"] == self._failing_id:
            raise self._error
        return await self._inner.append(at, entry)


@asynccontextmanager
async def second_api(stack: Stack, access: Access) -> AsyncIterator[httpx.AsyncClient]:
    """The same service's API once more, over another way to what is behind it."""
    metrics = Metrics()
    app = build_app(
        "Second",
        routers(access),
        credentials=stack.credentials,
        admission=Admission(ROOMY, monotonic, metrics),
        metrics=metrics,
        checks={},
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://second") as client:
        yield client


@asynccontextmanager
async def failing_door(stack: Stack, error: LogError) -> AsyncIterator[httpx.AsyncClient]:
    """An API whose appends of the event e2 fail."""
    lanes, store = Lanes(stack.log), await PostgresStore.open(stack.settings.database_url, "door")
    front = Front("door", stack.log, Failing(lanes, "e2", error), store, partitions=PARTITIONS)
    access = stack.access["contacts"]
    async with second_api(stack, replace(access, fronts={**access.fronts, "door": front})) as client:
        yield client
    await lanes.close()
    await store.close()


@pytest.mark.parametrize("error", [AppendFailed("no answer"), LogUnavailable("too many appends wait")])
async def test_where_one_append_of_a_batch_fails_the_batch_is_sent_again(stack: Stack, error: LogError) -> None:
    shop = await stack.tenant(f"failing-{type(error).__name__.lower()}", clock_at=NOW.isoformat())
    events = [bought(), {**bought(), "id": "e2"}]
    async with failing_door(stack, error) as failing:
        failing.headers["Authorization"] = shop.headers["Authorization"]
        answer = await failing.post("/v1/events", json=events)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
        assert "send the same again" in answer.json()["detail"]
        assert answer.headers["Retry-After"]
    again = await shop.post("/v1/events", json=events)
    assert [item["status"] for item in again.json()["items"]] in (["duplicate", "duplicate"], ["recorded", "duplicate"])
    assert (await shop.get("/v1/events", params=PARAMS)).json()["outcome"] == "recorded"


async def test_what_the_inbox_cannot_hold_is_too_large(stack: Stack) -> None:
    shop = await stack.tenant("refused", clock_at=NOW.isoformat())
    events = [bought(), {**bought(), "id": "e2"}]
    async with failing_door(stack, EntryRefused("too large")) as failing:
        failing.headers["Authorization"] = shop.headers["Authorization"]
        batch = await failing.post("/v1/events", json=events)
        assert [item["status"] for item in batch.json()["items"]] == ["accepted", "invalid"]
        alone = await failing.post("/v1/events", json=events[1])
        assert (alone.status_code, alone.json()["type"]) == (413, "/problems/body-too-large")


async def test_events_are_taken_while_the_database_is_away(stack: Stack) -> None:
    shop = await stack.tenant("away", clock_at=NOW.isoformat())
    access, url = stack.access["contacts"], stack.settings.database_url
    async with api_pool(url, "door", "door") as door, api_pool(url, "contacts", "contacts") as contacts:
        async with second_api(stack, replace(access, pools={"door": door, "contacts": contacts})) as api:
            api.headers["Authorization"] = shop.headers["Authorization"]
            assert (await api.post("/v1/events", json=bought())).status_code == 202
            await door.close()
            await contacts.close()
            assert (await api.post("/v1/events", json={**bought(), "id": "e2"})).status_code == 202
            reads = [await api.get("/v1/events", params=PARAMS), await api.get("/v1/clock")]
            reads += [await api.get("/v1/tenants/current"), await api.get("/v1/credentials")]
            reads += [await api.post("/v1/events", json=bought(), headers={"Prefer": "wait=1"})]
            assert {(read.status_code, read.json()["type"]) for read in reads} == {(503, "/problems/unavailable")}
    assert (await shop.post("/v1/events", json={**bought(), "id": "e2"})).json()["status"] == "duplicate"


async def test_the_document_names_every_route_its_body_and_its_problems(stack: Stack) -> None:
    paths = (await stack.client.get("/openapi.json")).json()["paths"]
    ours = {path: set(operations) for path, operations in paths.items() if path.startswith("/v1/")}
    assert ours == {
        "/v1/events": {"post", "get"},
        "/v1/tenants": {"post"},
        "/v1/tenants/current": {"get"},
        "/v1/tenants/{tenant}/credentials": {"post"},
        "/v1/credentials": {"post", "get"},
        "/v1/credentials/{credential_id}": {"delete"},
        "/v1/clock": {"post", "get"},
    }
    receiving = paths["/v1/events"]["post"]
    assert set(receiving["requestBody"]["content"]) == {
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
        "application/json",
    }
    assert {"200", "202", "400", "401", "403", "413", "415", "422", "429", "503"} <= set(receiving["responses"])
    assert "409" in paths["/v1/clock"]["post"]["responses"]


REACHED = "select partition, (offsets ->> $1)::bigint as reached from door_machinery.positions"


async def test_a_decision_that_the_log_has_not_acknowledged_is_known(stack: Stack) -> None:
    """Receipts are told once their facts are on the stream: the query that says which partitions to wait for."""
    shop = await stack.tenant("unpublished", clock_at=NOW.isoformat())
    assert (await shop.post("/v1/events", json=bought())).json()["status"] == "recorded"
    topic = stack.access["contacts"].fronts["door"].inbox_topic
    connection = await asyncpg.connect(stack.settings.database_url)
    async with asyncio.timeout(10):
        while await find_unpublished(connection, topic):  # what is acknowledged is recorded at leisure
            await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.02)
    undone = connection.transaction()
    await undone.start()
    try:
        rows = await connection.fetch(REACHED, topic)
        reached = {row["partition"]: row["reached"] for row in rows if row["reached"]}
        await connection.execute("update door_machinery.answers set answered = answered - 1")
        assert await find_unpublished(connection, topic) == reached
        await connection.execute("update door_machinery.answers set answered = answered + 1")
        assert await find_unpublished(connection, topic) == {}
        await connection.execute("delete from door_machinery.answers")
        assert await find_unpublished(connection, topic) == reached != {}
    finally:
        await undone.rollback()
        await connection.close()
