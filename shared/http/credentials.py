"""API keys: who calls, for which tenant, with which scopes. Only hashes are kept, in a table and in memory.

The table is a worker's state fed by `credential.declared.v1`, outside row-level security (its migration is in `sql/`):
it says which tenant a caller is, so it is read before there is one. The letter comes on every partition; partition 0's
copy is folded, so that the table has one writer. (contacts' own `credentials` are its facts, another table.)
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from shared.events.contacts import CredentialDeclared
from shared.events.envelope import Event
from shared.http.problems import Unavailable
from shared.runtime.tables import Need, Rows, Table

SECRET_PREFIX: Final = "rk_live_"
LOOK_UPS_AT_ONCE_MAX: Final = 4
OPERATOR: Final = "operator"
"""The scope of the admin key alone: it creates tenants and their first credentials, named by the path."""

FOLDED_PARTITION: Final = 0

LOAD_CREDENTIALS = """
select secret_hash, credential_id, tenant, scopes, revoked from known_credentials
where secret_hash in (select * from unnest($1::text[]))
"""
SAVE_CREDENTIALS = """
insert into known_credentials (secret_hash, credential_id, tenant, scopes, revoked)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bool[])
on conflict (secret_hash) do update
set credential_id = excluded.credential_id, tenant = excluded.tenant, scopes = excluded.scopes,
    revoked = excluded.revoked
"""


class CredentialRow(NamedTuple):
    """A declared API key. `scopes` are separated by one space, sorted."""

    secret_hash: str
    credential_id: str
    tenant: str
    scopes: str
    revoked: bool


CREDENTIALS = Table(
    "known_credentials",
    CredentialRow,
    ("secret_hash",),
    ("secret_hash",),
    "others",
    LOAD_CREDENTIALS,
    SAVE_CREDENTIALS,
)


def credential_needs(event: Event, partition: int) -> Iterable[Need]:
    """For `Rules.needs` of `credential.declared.v1`."""
    if partition == FOLDED_PARTITION:
        yield Need(CREDENTIALS, (event.data.secret_hash,))


def absorb_credential(rows: Rows, event: Event, partition: int) -> None:
    """For `Rules.absorb` of `credential.declared.v1`: the key as it stands from now on."""
    if partition != FOLDED_PARTITION:
        return
    declared: CredentialDeclared = event.data
    scopes = " ".join(sorted(set(declared.scopes)))
    row = CredentialRow(declared.secret_hash, declared.credential_id, event.tenant, scopes, declared.revoked)
    rows.put(CREDENTIALS, row)


def new_secret() -> str:
    """A key to show once: the prefix, so that scanners find leaked ones, and 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def secret_hash(secret: str) -> str:
    """SHA-256 in hex. A key is random, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `tenant` is empty for the operator, who names it in the path."""

    tenant: str
    scopes: frozenset[str]
    credential_id: str


class Source(Protocol):
    """Where keys are read: an asyncpg pool or connection of a role that may read the table."""

    async def fetch(self, query: str, *args: Any) -> list[Any]: ...


LOAD_ALL_CREDENTIALS = """
select secret_hash, credential_id, tenant, scopes, revoked from known_credentials where not revoked
"""
FIND_CREDENTIAL = """
select secret_hash, credential_id, tenant, scopes, revoked from known_credentials where secret_hash = $1 and not revoked
"""


class Credentials:
    """The live keys of all tenants in memory, by hash; and the operator's.

    With a `source`, a well-formed key that is not in memory is looked up there, a few at a time: a new key works as
    soon as it is declared. A revoked key works until the next `refresh`.
    """

    def __init__(self, admin_key: str, source: Source | None = None) -> None:
        self._admin_hash = secret_hash(admin_key)
        self._source = source
        self._looking_up = 0
        self._by_hash: dict[str, Principal] = {}

    async def refresh(self, connection: Source) -> None:
        """Read all live keys again: at the start, and whenever the table may have changed."""
        self.replace(CredentialRow(*row) for row in await connection.fetch(LOAD_ALL_CREDENTIALS))

    def replace(self, rows: Iterable[CredentialRow]) -> None:
        """Know exactly these keys from now on."""
        self._by_hash = {row.secret_hash: _principal(row) for row in rows if not row.revoked}

    async def find(self, secret: str) -> Principal | None:
        """Whose key this is, or None."""
        hashed = secret_hash(secret)
        if hmac.compare_digest(hashed, self._admin_hash):
            return Principal("", frozenset({OPERATOR}), "admin")
        found = self._by_hash.get(hashed)
        if found is not None or self._source is None or not secret.startswith(SECRET_PREFIX):
            return found
        if self._looking_up >= LOOK_UPS_AT_ONCE_MAX:
            raise Unavailable("Too many unknown credentials are being looked up; try again.")
        self._looking_up += 1
        try:
            rows = await self._source.fetch(FIND_CREDENTIAL, hashed)
        finally:
            self._looking_up -= 1
        for row in rows:
            self._by_hash[hashed] = _principal(CredentialRow(*row))
        return self._by_hash.get(hashed)


def _principal(row: CredentialRow) -> Principal:
    return Principal(row.tenant, frozenset(row.scopes.split()), row.credential_id)
