"""A small API over the house's base: what every service's endpoints inherit, seen through HTTP."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from shared.http.admission import Admission, Limits
from shared.http.app import build_app
from shared.http.authentication import requires
from shared.http.credentials import CredentialRow, Credentials, Principal, secret_hash
from shared.http.headers import IdempotencyKey, body_hash, wait_seconds
from shared.http.health import Check
from shared.http.paging import Cursor, Keyset, Limit, Page
from shared.http.position import After
from shared.http.problems import Refusal, problem_responses
from shared.http.routes import body_at_most, router
from shared.telemetry import Metrics

ADMIN_KEY = "an-admin-key-of-the-tests-0001"
ACME = "rk_live_acme"
BETA = "rk_live_beta"
NARROW = "rk_live_narrow"
REVOKED = "rk_live_revoked"

THINGS = [f"thing-{number:03d}" for number in range(120)]
THINGS_BY_NAME = Keyset("things", (str,))


class Thing(BaseModel):
    name: str = Field(min_length=1, max_length=50)
    amount_minor: int = Field(strict=True, ge=0)
    lines: list[dict[str, Any]] = Field(default_factory=list)


class Answer(BaseModel):
    tenant: str
    key: str = ""
    hash: str = ""
    wait: float = 0
    after: str = ""
    received: Any = None


def things() -> Any:
    routes = router("/v1/things", tags=["things"])

    @routes.post("", status_code=201, responses=problem_responses(409))
    async def create(
        request: Request,
        thing: Thing,
        key: IdempotencyKey,
        wait: Annotated[float, wait_seconds()],
        after: After,
        caller: Annotated[Principal, requires("things:write")],
    ) -> Answer:
        if thing.name == "forbidden":
            raise Refusal("not-enough-points", "Ask for at most 120 points.", available=120)
        if thing.name == "broken":
            raise KeyError("li@example.com")
        digest = body_hash(await request.body())
        position = after.encode() if after else ""
        return Answer(tenant=caller.tenant, key=key, hash=digest, wait=wait, after=position, received=thing.name)

    @routes.get("")
    async def listed(
        _: Annotated[Principal, requires("things:read")], limit: Limit = 50, cursor: Cursor = None
    ) -> Page[str]:
        (after,) = THINGS_BY_NAME.decode(cursor) if cursor else ("",)
        rows = [thing for thing in THINGS if thing > after][: limit + 1]
        return THINGS_BY_NAME.page(rows, [(row,) for row in rows], limit)

    @routes.get("/{name}")
    async def one(name: str, caller: Annotated[Principal, requires("things:read")]) -> Answer:
        return Answer(tenant=caller.tenant, received=name)

    @routes.post("/raw")
    @body_at_most(1000)
    async def raw(request: Request, caller: Annotated[Principal, requires("things:write")]) -> Answer:
        return Answer(tenant=caller.tenant, received=await request.json())

    @routes.post("/tenants/{tenant}")
    async def create_tenant(tenant: str, caller: Annotated[Principal, requires("operator")]) -> Answer:
        return Answer(tenant=caller.tenant, received=tenant)

    return routes


def known_keys() -> Credentials:
    credentials = Credentials(ADMIN_KEY)
    both = "things:read things:write"
    credentials.replace(
        [
            CredentialRow(secret_hash(ACME), "c_1", "acme", both, False),
            CredentialRow(secret_hash(BETA), "c_2", "beta", both, False),
            CredentialRow(secret_hash(NARROW), "c_3", "acme", "things:read", False),
            CredentialRow(secret_hash(REVOKED), "c_4", "acme", both, True),
        ]
    )
    return credentials


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


Build = Callable[..., FastAPI]


@pytest.fixture
def build() -> Build:
    def make(
        *,
        limits: Limits | None = None,
        now: Callable[[], float] | None = None,
        metrics: Metrics | None = None,
        credentials: Credentials | None = None,
        checks: dict[str, Check] | None = None,
        routers: list[Any] | None = None,
    ) -> FastAPI:
        metrics = metrics or Metrics()
        return build_app(
            "Things",
            [things()] if routers is None else routers,
            credentials=credentials or known_keys(),
            admission=Admission(limits or Limits(), now or Clock(), metrics),
            metrics=metrics,
            checks=checks or {},
        )

    return make


Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
def connect() -> Connect:
    def make(app: FastAPI, secret: str = ACME) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://things", headers=headers)

    return make


@pytest.fixture
async def client(build: Build, connect: Connect) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(build()) as one:
        yield one
