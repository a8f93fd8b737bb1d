"""Who may do what: keys, scopes, tenants, the operator."""

from typing import Any

import httpx
import pytest

from shared.events.contacts import CredentialDeclared
from shared.events.envelope import Event, parse_instant
from shared.http.credentials import (
    CREDENTIALS,
    CredentialRow,
    Credentials,
    absorb_credential,
    credential_needs,
    new_secret,
    secret_hash,
)
from shared.runtime.tables import Rows
from tests.http.conftest import ACME, ADMIN_KEY, BETA, NARROW, REVOKED, Build, Connect


async def test_the_tenant_comes_from_the_key(build: Build, connect: Connect) -> None:
    app = build()
    for secret, tenant in ((ACME, "acme"), (BETA, "beta")):
        async with connect(app, secret) as client:
            assert (await client.get("/v1/things/x")).json()["tenant"] == tenant


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer nobody", f"Bearer {REVOKED}", f"Basic {ACME}", ACME, "Bearer " + "x" * 5000],
)
async def test_without_a_live_key_it_is_401_and_says_how_to_send_one(
    build: Build, connect: Connect, header: str
) -> None:
    async with connect(build(), "") as client:
        answer = await client.get("/v1/things/x", headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.json()["type"] == "/problems/unauthenticated"
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_of_bytes_beyond_ascii_is_401(build: Build, connect: Connect) -> None:
    async with connect(build(), "") as client:
        answer = await client.get("/v1/things/x", headers=[(b"Authorization", b"Bearer \xff\xc3\xa9")])
    assert answer.status_code == 401


async def test_a_missing_scope_is_403_and_named(build: Build, connect: Connect) -> None:
    async with connect(build(), NARROW) as client:
        assert (await client.get("/v1/things/x")).status_code == 200
        answer = await client.post("/v1/things", json={"name": "a", "amount_minor": 1})
    assert answer.status_code == 403
    assert answer.json()["scope"] == "things:write"


async def test_the_admin_key_is_the_operator_and_nothing_else(build: Build, connect: Connect) -> None:
    app = build()
    async with connect(app, ADMIN_KEY) as client:
        assert (await client.post("/v1/things/tenants/new")).json()["received"] == "new"
        assert (await client.get("/v1/things/x")).status_code == 403
    async with connect(app, ACME) as client:
        assert (await client.post("/v1/things/tenants/new")).status_code == 403


async def test_a_tenant_may_have_two_live_keys_and_revoke_the_old_one(build: Build, connect: Connect) -> None:
    old, new = new_secret(), new_secret()
    rows = [
        CredentialRow(secret_hash(old), "c_1", "acme", "things:read", False),
        CredentialRow(secret_hash(new), "c_2", "acme", "things:read", False),
    ]
    credentials = Credentials(ADMIN_KEY)
    credentials.replace(rows)
    app = build(credentials=credentials)

    async def answers(secret: str) -> int:
        async with connect(app, secret) as client:
            return (await client.get("/v1/things/x")).status_code

    assert (await answers(old), await answers(new)) == (200, 200)
    credentials.replace([rows[0]._replace(revoked=True), rows[1]])
    assert (await answers(old), await answers(new)) == (401, 200)


class Table:
    """A database of one table, which counts what it is asked."""

    def __init__(self, rows: list[CredentialRow]) -> None:
        self.rows, self.asked = rows, 0

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        self.asked += 1
        return [row for row in self.rows if not args or row.secret_hash == args[0]]


async def test_a_key_declared_since_the_last_refresh_is_looked_up_once_and_junk_is_not() -> None:
    secret = new_secret()
    table = Table([CredentialRow(secret_hash(secret), "c_9", "acme", "a b", False)])
    credentials = Credentials(ADMIN_KEY, table)
    assert await credentials.find("junk") is None
    assert table.asked == 0
    for _ in range(3):
        found = await credentials.find(secret)
        assert found is not None
        assert found.scopes == {"a", "b"}
    assert table.asked == 1
    assert await credentials.find(new_secret()) is None


async def test_refresh_forgets_what_is_no_longer_live() -> None:
    secret = new_secret()
    table = Table([CredentialRow(secret_hash(secret), "c_9", "acme", "a", False)])
    credentials = Credentials(ADMIN_KEY)
    await credentials.refresh(table)
    assert await credentials.find(secret) is not None
    table.rows = []
    await credentials.refresh(table)
    assert await credentials.find(secret) is None


def test_a_secret_has_the_prefix_and_256_bits() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert new_secret().startswith("rk_live_")
    assert len(new_secret()) == len("rk_live_") + 43


HASH = secret_hash("rk_live_declared")


def declared(revoked: bool) -> Event:
    scopes = ("points:read", "events:write", "events:write")
    data = CredentialDeclared(credential_id="c_1", secret_hash=HASH, scopes=scopes, name="till", revoked=revoked)
    time = parse_instant("2026-01-02T10:00:00Z", "time")
    return Event("e1", "regulars/contacts", "credential.declared.v1", "acme", "tenant", time, data)


def test_given_the_letters_on_all_partitions_when_absorbed_then_partition_zero_alone_writes() -> None:
    rows = Rows()
    for partition in (0, 1, 11):
        for table, groups in rows.missing(credential_needs(declared(False), partition)).items():
            rows.loaded(table, groups, [])
        absorb_credential(rows, declared(False), partition)
    expected = CredentialRow(HASH, "c_1", "acme", "events:write points:read", False)
    assert list(rows.changes()) == [(CREDENTIALS, [expected])]


def test_given_a_revoking_letter_when_absorbed_then_the_row_says_so() -> None:
    rows = Rows()
    for table, groups in rows.missing(credential_needs(declared(True), 0)).items():
        rows.loaded(table, groups, [])
    absorb_credential(rows, declared(False), 0)
    absorb_credential(rows, declared(True), 0)
    row = rows.get(CREDENTIALS, (HASH,))
    assert row is not None
    assert row.revoked


async def test_the_answer_to_a_wrong_key_never_repeats_it(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/things/x", headers={"Authorization": "Bearer rk_live_typo"})
    assert "rk_live_typo" not in answer.text
