"""What a process tells its operators: JSON logs with a correlation id, and Prometheus metrics from one catalogue.

Neither holds personal data: log what happened, to which tenant, under which id; never a name, an address or a body.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TextIO

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""One chain of work across services: in every log line, in every event's `correlationid`."""

trace_parent: ContextVar[str] = ContextVar("trace_parent", default="")
"""W3C trace context of the current work: https://www.w3.org/TR/trace-context/."""


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

NEVER_LOGGED: Final = frozenset(
    {"address", "authorization", "body", "birthday", "email", "identity", "key", "name", "phone", "secret", "value"}
)
"""Names of extra fields that hold or may hold personal data or a secret: their values are left out."""

LEFT_OUT: Final = "(left out)"

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_OUR_PACKAGES: Final = ("shared.", "services.", "regulars.")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, service, message, correlation_id, then the extra fields.

    A fault is shown by its type and frames. Its own text is shown only where we wrote it (our exceptions, which hold
    no personal data) or where it cannot quote a customer's input (OSError, RuntimeError).
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "service": self._service,
            "message": record.getMessage(),
        }
        if identifier := correlation_id.get():
            line["correlation_id"] = identifier
        for name, value in vars(record).items():
            if name not in _STANDARD and not name.startswith("_"):
                line[name] = LEFT_OUT if name.lower() in NEVER_LOGGED else value
        if record.exc_info and record.exc_info[1] is not None:
            line["fault"] = _fault(record.exc_info[1])
        try:
            return orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate, or an integer beyond 64 bits
            return json.dumps(line, default=repr)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (logging's name)
        """RFC 3339 in UTC with milliseconds."""
        seconds = time.strftime(datefmt or "%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


def _fault(error: BaseException) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": f"{type(error).__module__}.{type(error).__qualname__}"}
    if type(error).__module__.startswith(_OUR_PACKAGES) or isinstance(error, OSError | RuntimeError):
        shown["detail"] = str(error)
    frames = traceback.extract_tb(error.__traceback__)[-20:]
    shown["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    if error.__cause__ is not None:
        shown["cause"] = _fault(error.__cause__)
    return shown


def log_to(stream: TextIO, service: str, level: str = "info") -> logging.Handler:
    """Send all logs of this process to `stream` as JSON lines; called once, in `__main__`. Returns the handler."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    return handler


def log_to_stderr(service: str, level: str = "info") -> logging.Handler:
    return log_to(sys.stderr, service, level)


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Metric(NamedTuple):
    """One metric by its Prometheus name; `buckets` are upper bounds in the unit that the name ends with."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


LATENCY_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)

HTTP_REQUESTS: Final = Metric(
    "regulars_http_requests_total", "counter", ("method", "route", "status"), "Requests answered, by route template."
)
HTTP_SECONDS: Final = Metric(
    "regulars_http_request_seconds", "histogram", ("method", "route"), "Time to the whole answer.", LATENCY_BUCKETS
)
HTTP_IN_FLIGHT: Final = Metric("regulars_http_requests_in_flight", "gauge", (), "Requests begun and not yet answered.")
HTTP_TURNED_AWAY: Final = Metric(
    "regulars_http_turned_away_total", "counter", ("limit",), "Requests answered 429, by the limit they met."
)
READY: Final = Metric("regulars_ready", "gauge", ("check",), "1 when the check passed at the last /readyz, else 0.")

CATALOGUE: Final[tuple[Metric, ...]] = (HTTP_REQUESTS, HTTP_SECONDS, HTTP_IN_FLIGHT, HTTP_TURNED_AWAY, READY)
"""The metrics every process has. A service adds rows of its own when it builds its `Metrics`. No label holds an id of
a contact or a tenant: the number of series stays bounded."""


@dataclass(eq=False)
class Metrics:
    """The metrics of one process in a registry of its own, passed to whom it concerns. Values are made on first use."""

    rows: tuple[Metric, ...] = CATALOGUE
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    _made: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            match row.kind:
                case "counter":
                    self._made[row.name] = Counter(row.name, row.meaning, row.labels, registry=self.registry)
                case "gauge":
                    self._made[row.name] = Gauge(row.name, row.meaning, row.labels, registry=self.registry)
                case "histogram":
                    self._made[row.name] = Histogram(
                        row.name, row.meaning, row.labels, registry=self.registry, buckets=row.buckets
                    )

    def count(self, metric: Metric, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        self._of(metric, labels).inc(amount)

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._of(metric, labels).set(value)

    def add(self, metric: Metric, amount: float, /, **labels: str) -> None:
        """Move a gauge by an amount, which may be negative."""
        self._of(metric, labels).inc(amount)

    def observe(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram, in the unit that its name ends with."""
        self._of(metric, labels).observe(value)

    def exposition(self) -> bytes:
        """Prometheus text format 0.0.4."""
        return generate_latest(self.registry)

    def _of(self, metric: Metric, labels: Mapping[str, str]) -> Any:
        made = self._made[metric.name]
        return made.labels(**labels) if metric.labels else made


def metrics_table(rows: tuple[Metric, ...] = CATALOGUE) -> str:
    """The catalogue as a Markdown table, for the documentation."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| `{row.name}` | {row.kind} | {', '.join(row.labels) or '–'} | {row.meaning} |")
    return "\n".join(lines) + "\n"
