"""Database access of an API: as the API's own role, read only, one tenant per transaction (row-level security)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from shared.http.problems import Unavailable
from shared.runtime.postgres_session import LOST, keep_session

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

CONNECTIONS_MAX: Final = 10
STATEMENT_MILLISECONDS_MAX: Final = 10_000
IDLE_IN_TRANSACTION_MILLISECONDS_MAX: Final = 10_000
CONNECT_SECONDS_MAX: Final = 10.0


def api_role(worker: str) -> str:
    """The role that a worker's API reads as: it owns nothing, writes nothing, and sees one tenant at a time."""
    return f"{worker}_api"


def api_pool(url: str, worker: str, schema: str, connections_max: int = CONNECTIONS_MAX) -> "asyncpg.Pool":
    """A pool for `async with`; every connection is from its first byte the role `<worker>_api`, read only, bounded."""
    settings = {
        "role": api_role(worker),
        "search_path": schema,
        "default_transaction_read_only": "on",
        "statement_timeout": str(STATEMENT_MILLISECONDS_MAX),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MILLISECONDS_MAX),
        "timezone": "UTC",
    }
    return asyncpg.create_pool(
        url,
        min_size=1,
        max_size=connections_max,
        timeout=CONNECT_SECONDS_MAX,
        command_timeout=STATEMENT_MILLISECONDS_MAX / 1000 + 1,
        server_settings=settings,
        reset=keep_session,
    )


SET_TENANT = "select set_config('regulars.tenant', $1, true)"


@asynccontextmanager
async def tenant_connection(pool: "asyncpg.Pool", tenant: str) -> AsyncIterator["PoolConnectionProxy"]:
    """A connection that sees this tenant's rows as of one instant, until the block ends; without a tenant no rows.

    Policies compare with `current_setting('regulars.tenant', true)`, which is null or empty when unset. Raises
    Unavailable when the database cannot be reached.
    """
    try:
        async with (
            pool.acquire(timeout=CONNECT_SECONDS_MAX) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.fetchval(SET_TENANT, tenant)
            yield connection
    except asyncpg.ReadOnlySQLTransactionError:
        raise  # an API that writes is a mistake of ours, not a database that is away
    except (*LOST, asyncpg.InterfaceError) as error:
        raise Unavailable("The database cannot be reached; try again.") from error
