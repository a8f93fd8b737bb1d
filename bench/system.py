"""The system under measurement: Regulars in a process of its own, on a durable embedded Postgres, maybe on Kafka."""

import base64
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.measures import BenchWrong, Processes
from regulars.server import SERVICES
from shared.embedded_postgres import DURABLE, EmbeddedPostgres
from shared.process import Part
from shared.settings import Settings
from shared.testing.native_kafka import NativeKafka, kafka_version

LISTENING: Final = re.compile(r"listens on (http://\S+)\s")
START_SECONDS_MAX: Final = 120.0
LOOK_AGAIN_SECONDS: Final = 0.05
END_SECONDS_MAX: Final = 60.0


@dataclass(frozen=True)
class System:
    """A running installation. `end_server` ends its server in order, the database and the log stay."""

    url: str
    bare_url: str
    admin_key: str
    database_url: str
    log_url: str
    log_name: str
    programs: Path
    parts: Sequence[Part]
    processes: Processes
    server: "subprocess.Popen[bytes]"

    def end_server(self) -> None:
        _end(self.server)


@contextmanager
def running_system(directory: Path, log: str) -> Iterator[System]:
    """Start all in an empty directory. `log` is `postgres` or `kafka`. Raises KafkaNotRun, BenchWrong."""
    with ExitStack() as exits:
        postgres = EmbeddedPostgres(directory / "postgres", DURABLE)
        database_url = postgres.start()
        exits.callback(postgres.stop, immediate=True)
        roots = {"postgres": int((postgres.directory / "postmaster.pid").read_text().split()[0])}
        log_url, log_name = database_url, "postgres"
        if log == "kafka":
            broker = NativeKafka()
            exits.callback(broker.close)
            log_url, log_name = f"kafka://{broker.start()}", f"kafka {kafka_version()}, one broker"
            roots["kafka"] = _child("kafka.Kafka")
        own = {
            "REGULARS_DATABASE_URL": database_url,
            "REGULARS_LOG_URL": log_url,
            "REGULARS_MASTER_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
            "REGULARS_ADMIN_KEY": f"rk_admin_{secrets.token_urlsafe(32)}",
            "REGULARS_LOG_LEVEL": "warning",
        }
        given = {name: value for name, value in os.environ.items() if not name.startswith("REGULARS_")}
        environment = given | own
        up = ("regulars", "--var", str(directory / "var"), "up", "--host", "127.0.0.1", "--port", "0")
        server, url = _started(exits, up, environment, directory / "server.log")
        bare, bare_url = _started(exits, ("bench.bare",), environment, directory / "bare.log")
        yield System(
            url,
            bare_url,
            own["REGULARS_ADMIN_KEY"],
            database_url,
            log_url,
            log_name,
            Path(f"/proc/{roots['postgres']}/exe").resolve().parent,
            [Part(service, Settings.from_environment(own, service.name)) for service in SERVICES],
            Processes(roots | {"server": server.pid, "bare server": bare.pid}),
            server,
        )


def _started(
    exits: ExitStack, module: Sequence[str], environment: Mapping[str, str], log: Path
) -> tuple["subprocess.Popen[bytes]", str]:
    """`python -m module ...` in the background, and the URL that it says it listens on."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", *module], env=dict(environment), stdout=file, stderr=file)
    exits.callback(_end, process)
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        if said := LISTENING.search(log.read_text(errors="replace")):
            return process, said[1]
        time.sleep(LOOK_AGAIN_SECONDS)
    raise BenchWrong(f"{module[0]} did not start: {log.read_text(errors='replace')[-2000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _child(command: str) -> int:
    """The process of ours whose command line holds this word."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            line = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == os.getpid() and command.encode() in line:
            return int(name)
    raise BenchWrong(f"there is no process {command}")
