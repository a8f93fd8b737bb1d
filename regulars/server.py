"""The all-in-one server: every service in one process on one port, with a database of its own where none is given.

Without REGULARS_DATABASE_URL a directory (`var/`) holds all of it: an embedded Postgres with state and log, and the
two keys of the installation, made when they are missing, mode 0600.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.contacts.service import SERVICE as CONTACTS
from services.points.service import SERVICE as POINTS
from shared.embedded_postgres import DURABLE, EmbeddedPostgres
from shared.process import Part
from shared.sealing import make_master_key_file
from shared.service import Service
from shared.settings import Settings

SERVICES: Final[tuple[Service, ...]] = (CONTACTS, POINTS)
"""In the order in which they are opened; the first one's copy of the API keys serves all."""

RELAXED: Final[Mapping[str, str]] = {
    **DURABLE,
    "synchronous_commit": "off",
    "regulars.relaxed": "on",
    "wal_init_zero": "off",
    "autovacuum_naptime": "5min",
}
"""A commit does not wait for the disk, nor does the log: a power cut may lose the last fraction of a second, a crash of
ours nothing.

Vacuum and analyse come every five minutes, not every one: on two cores they take part of what a demo has.
"""

DATABASE_URL: Final = "REGULARS_DATABASE_URL"
MASTER_KEY_FILE: Final = "master.key"
ADMIN_KEY_FILE: Final = "admin.key"
LOCK_FILE: Final = "lock"


class Busy(Exception):
    """Another command holds the directory."""


class NoInstallation(Exception):
    """There is nothing in the directory to work on."""


def chosen(only: Sequence[str]) -> tuple[Service, ...]:
    """The services of these names, or all. Raises ValueError for a name that there is not."""
    names = [service.name for service in SERVICES]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"there is no service {', '.join(unknown)}; there are {', '.join(names)}")
    return tuple(service for service in SERVICES if not only or service.name in only)


def is_embedded(environment: Mapping[str, str], services: Sequence[Service] = SERVICES) -> bool:
    """Whether no database is given for some service, so that the embedded one must serve."""
    own = (f"REGULARS_{service.name.upper()}_DATABASE_URL" for service in services)
    return not environment.get(DATABASE_URL, "").strip() and not all(environment.get(name, "").strip() for name in own)


@contextmanager
def surroundings(
    directory: Path,
    environment: Mapping[str, str],
    services: Sequence[Service] = SERVICES,
    *,
    alone: bool = False,
    postgres: Mapping[str, str] = DURABLE,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[list[Part]]:
    """The services with their settings; the embedded database runs at least until the block ends.

    `alone`: for a server, which makes what is missing, and raises Busy when another command is on the directory. Others
    use its database while it runs, and raise NoInstallation where there is none. Raises SettingsError,
    EmbeddedPostgresError.
    """
    if not is_embedded(environment, services):
        yield _parts(environment, services)
        return
    if not alone and not (directory / "postgres").exists():
        raise NoInstallation(
            f"there is no installation in {directory.absolute()}: name its directory with --var, or `regulars up` first"
        )
    directory.mkdir(parents=True, exist_ok=True)
    found = {**environment, **_keys(directory, environment, say)}
    with (directory / LOCK_FILE).open("w") as lock:
        first = _locked(lock.fileno())
        if alone and not first:
            raise Busy(f"another command is running on {directory}: end it first, or choose another directory (--var)")
        server = EmbeddedPostgres(directory / "postgres", postgres)
        try:
            found[DATABASE_URL] = server.start()
            yield _parts(found, services)
        finally:
            if first:
                server.stop()


def in_use(directory: Path) -> bool:
    """Whether a command is running on this directory."""
    path = directory / LOCK_FILE
    if not path.exists():
        return False
    with path.open("w") as lock:
        return not _locked(lock.fileno())


def _parts(environment: Mapping[str, str], services: Sequence[Service]) -> list[Part]:
    return [Part(service, Settings.from_environment(environment, service.name)) for service in services]


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _keys(directory: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> dict[str, str]:
    """The keys' files, made where they are missing, as settings; a key that the environment gives goes before."""
    found = {}
    for name, file, make in (
        ("REGULARS_MASTER_KEY", MASTER_KEY_FILE, _make_master_key),
        ("REGULARS_ADMIN_KEY", ADMIN_KEY_FILE, _make_admin_key),
    ):
        if environment.get(name, "").strip() or environment.get(f"{name}_FILE", "").strip():
            continue
        path = directory / file
        if not path.exists():
            make(path)
            say(f"made {path} (mode 0600)")
        found[f"{name}_FILE"] = str(path)
    return found


def _make_master_key(path: Path) -> None:
    make_master_key_file(path, os.urandom)


def _make_admin_key(path: Path) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(f"rk_admin_{secrets.token_urlsafe(32)}\n")
