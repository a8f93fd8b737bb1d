"""One real Kafka broker from its published jars: Java 17 or later and Maven, no container.

    python -m shared.testing.native_kafka

prints the bootstrap (`127.0.0.1:port`) on a line of its own and runs until SIGTERM or Ctrl-C. The jars named by
`deploy/kafka/pom.xml` are copied once into a cache (XDG_CACHE_HOME, else ~/.cache), under the pom's digest.
"""

import base64
import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

POM: Final = Path(__file__).parents[2] / "deploy" / "kafka" / "pom.xml"
FETCH_SECONDS_MAX: Final = 600
START_SECONDS_MAX: Final = 60
STOP_SECONDS_MAX: Final = 30
JAVA_OLDEST: Final = 17
JAVA_OPTIONS: Final = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
# Replication factors of 1 because there is one broker; no waiting where a developer or a crash round would wait.
PROPERTIES: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={directory}/log
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""


class KafkaNotRun(Exception):
    """This machine cannot run Kafka; the message is the reason."""


def kafka_version() -> str:
    """The version that the pom names."""
    found = re.search(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text())
    if found is None:
        raise ValueError(f"{POM} names no kafka.version")
    return found[1]


class NativeKafka:
    """A broker with a directory of its own. It keeps port and content over `kill` and `start`. All methods block."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._port = 0
        self._broker: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> str:
        """Start, formatting the directory at first, and return the bootstrap once the broker listens.

        Raises KafkaNotRun.
        """
        java, classpath = _java(), f"{_jars()}{os.sep}*"
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="regulars-kafka-"))
            self._port, controller = _free_ports()
            text = PROPERTIES.format(port=self._port, controller=controller, directory=self._directory)
            (self._directory / "server.properties").write_text(text)
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            tool = ("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", self._properties)
            self._complete([java, *JAVA_OPTIONS, "-cp", classpath, *tool])
        with (self._directory / "broker.log").open("ab") as log:
            self._broker = subprocess.Popen(
                [java, *JAVA_OPTIONS, "-cp", classpath, "kafka.Kafka", self._properties],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await_listening()
        return self.bootstrap

    def kill(self) -> None:
        """kill -9, as a crash; `start` brings it back with what it had."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Shut down in good order, at the latest after STOP_SECONDS_MAX."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """Stop and remove what was stored."""
        self._end(signal.SIGKILL)
        if self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory = None

    @property
    def _properties(self) -> str:
        return str(self._directory / "server.properties") if self._directory else ""

    def _end(self, how: signal.Signals) -> None:
        if self._broker is None:
            return
        self._broker.send_signal(how)
        try:
            self._broker.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._broker.kill()
            self._broker.wait()
        self._broker = None

    def _complete(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS_MAX, check=False)
        if done.returncode:
            raise KafkaNotRun(f"{command[-1]} was refused: {done.stdout[-500:]}{done.stderr[-500:]}")

    def _await_listening(self) -> None:
        assert self._broker is not None
        assert self._directory is not None
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if (code := self._broker.poll()) is not None:
                log = (self._directory / "broker.log").read_text(errors="replace")[-1000:]
                raise KafkaNotRun(f"the broker ended with {code}: {log}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return
            time.sleep(0.05)
        raise KafkaNotRun(f"the broker does not listen after {START_SECONDS_MAX} s")


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        raise KafkaNotRun("no Java: install a JRE 17 or later")
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise KafkaNotRun(f"{java} does not run: {error}") from None
    found = re.search(r'version "(\d+)', told)
    if found is None or int(found[1]) < JAVA_OLDEST:
        raise KafkaNotRun(f"Java {JAVA_OLDEST} or later is needed, {java} is {told.splitlines()[0] if told else '?'}")
    return java


def _jars() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regulars"
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    jars = cache / f"kafka-{kafka_version()}-{digest}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaNotRun("no Maven to fetch Kafka's jars with: install maven")
    cache.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(prefix="fetch-", dir=cache))
    try:
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={fetched / 'jars'}", "-DincludeScope=runtime"]
        command = [maven, "-q", "-B", "-ntp", "-f", str(POM), *goal]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS_MAX, check=False)
        if done.returncode:
            raise KafkaNotRun(f"Maven could not fetch Kafka's jars: {done.stdout[-500:]}")
        # Renamed when complete, so that a broken download is never taken for a cache; a lost race is a full cache.
        with contextlib.suppress(OSError):
            (fetched / "jars").rename(jars)
    finally:
        shutil.rmtree(fetched)
    return jars


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def main() -> None:
    broker = NativeKafka()
    stopping = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        sys.stdout.write(broker.start() + "\n")
        sys.stdout.flush()
        signal.sigwait(stopping)
    except KafkaNotRun as reason:
        sys.exit(f"Kafka: NOT RUN ({reason})")
    finally:
        broker.close()


if __name__ == "__main__":
    main()
