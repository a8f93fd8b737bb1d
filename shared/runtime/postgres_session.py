"""Connections of a store: their settings, what their errors mean, and bounds so that giving one back never hangs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import asyncpg
import asyncpg.pool
import orjson

from shared.runtime.store import StoreConflict, StoreUnavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

CONFLICTS: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
LOST: Final = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,
)
"""What heals, with or without an operator: retried for ever, never the end of a process."""


@dataclass(frozen=True)
class SessionSettings:
    """Bounds of a store's connections. A stopped process blocks its successor no longer than the idle time-out."""

    connections_max: int = 16
    connect_timeout_seconds: float = 10
    command_timeout_seconds: float = 30
    statement_timeout_seconds: float = 25
    lock_timeout_seconds: float = 10
    idle_in_transaction_seconds: float = 20
    watchdog_seconds: float = 5
    """How long rolling back, giving back or closing a connection may take before it is cut."""


def server_settings(settings: SessionSettings, name: str, search_path: str, role: str | None = None) -> dict[str, str]:
    """What each connection sets at its start; `role` is taken in place of the login role.

    Every statement of a batch finds rows by key: nested loops over an index are the plan, also for a statement that
    was prepared while its tables were still small.
    """
    found = {
        "application_name": name,
        "search_path": search_path,
        "timezone": "UTC",
        "statement_timeout": _milliseconds(settings.statement_timeout_seconds),
        "lock_timeout": _milliseconds(settings.lock_timeout_seconds),
        "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_seconds),
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "30000",
        "jit": "off",
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_bitmapscan": "off",
        "enable_material": "off",
    }
    return found if role is None else {**found, "role": role}


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


@contextlib.contextmanager
def answers(connection: "Connection | None" = None) -> Iterator[None]:
    """Turn what the driver raises into StoreUnavailable or StoreConflict; anything else is a mistake of ours."""
    try:
        yield
    except CONFLICTS as error:
        raise StoreConflict(f"{type(error).__name__}: {error}") from error
    except LOST as error:
        raise StoreUnavailable(f"the database does not answer ({type(error).__name__}: {error})") from error
    except asyncpg.InterfaceError as error:
        if connection is not None and not gone(connection):
            raise
        raise StoreUnavailable(f"the connection is gone ({error})") from error


def gone(connection: Connection) -> bool:
    """Whether it is closed; the pool takes a broken connection out of our hands by itself."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


async def set_json(connection: Connection) -> None:
    """jsonb by orjson, with integer keys allowed, in its binary form: a version byte, then text."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_to_jsonb, decoder=_from_jsonb, format="binary"
    )


def _to_jsonb(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)


def _from_jsonb(value: bytes) -> Any:
    return orjson.loads(value[1:])


async def keep_session(_connection: Connection) -> None:
    """No round trip when a connection is given back: nothing of ours changes a session (the pool rolls back)."""


class Session:
    """A bounded pool of connections to one database, all with the same settings."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", settings: SessionSettings) -> None:
        self._pool = pool
        self._settings = settings

    @classmethod
    async def open(cls, url: str, settings: SessionSettings, server: dict[str, str]) -> "Session":
        """Raises StoreUnavailable."""
        with answers():
            pool = await asyncpg.create_pool(
                url,
                min_size=0,
                max_size=settings.connections_max,
                timeout=settings.connect_timeout_seconds,
                command_timeout=settings.command_timeout_seconds,
                server_settings=server,
                init=set_json,
                reset=keep_session,
            )
        session = cls(pool, settings)
        try:
            async with session.connection():
                return session
        except StoreUnavailable:
            await session.close()
            raise

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of this block alone. Raises StoreUnavailable, also when none becomes free in time."""
        with answers():
            connection = await self._pool.acquire(timeout=self._settings.connect_timeout_seconds)
        try:
            yield connection
        finally:
            # What cannot be given back in time is cut by the pool; the work on it is already over.
            with contextlib.suppress(asyncpg.InterfaceError, asyncpg.PostgresError, *LOST):
                await self._pool.release(connection, timeout=self._settings.watchdog_seconds)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Read committed. Commits when the block ends, rolls back when it raises."""
        async with self.connection() as connection:
            with answers(connection):
                await connection.execute("begin")
            try:
                yield connection
            except BaseException:
                await self._roll_back(connection)
                raise
            with answers(connection):
                status = await connection.execute("commit")
            if status != "COMMIT":
                raise StoreConflict("the transaction had failed before its end: the database rolled it back")

    async def _roll_back(self, connection: Connection) -> None:
        if gone(connection):
            return
        try:
            async with asyncio.timeout(self._settings.watchdog_seconds):
                await connection.execute("rollback")
        except (asyncpg.InterfaceError, asyncpg.PostgresError, *LOST):
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()

    async def close(self) -> None:
        """Close all connections, cutting those that do not end in time."""
        try:
            async with asyncio.timeout(self._settings.watchdog_seconds):
                await self._pool.close()
        except (asyncpg.InterfaceError, asyncpg.PostgresError, *LOST):
            self._pool.terminate()


async def connect_alone(url: str, settings: SessionSettings, server: dict[str, str]) -> Connection:
    """A connection outside the pool. Raises StoreUnavailable."""
    with answers():
        found = await asyncpg.connect(
            url,
            timeout=settings.connect_timeout_seconds,
            command_timeout=settings.command_timeout_seconds,
            server_settings=server,
        )
    return cast("Connection", found)
