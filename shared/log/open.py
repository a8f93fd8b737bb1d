"""From a URL to a log: `REGULARS_LOG_URL`."""

from urllib.parse import urlsplit

from shared.log.port import Log
from shared.log.postgres import PostgresLog


def open_log(url: str) -> Log:
    """`postgres://…` (or `postgresql://…`) or `kafka://host:port,host2:port`; connects when it is first used.

    Raises ValueError for any other URL.
    """
    match urlsplit(url).scheme:
        case "postgres" | "postgresql":
            return PostgresLog(url)
        case "kafka":
            bootstrap = url.removeprefix("kafka://").rstrip("/")
            brokers = bootstrap.split(",")
            if not all(host and port.isdigit() for host, _, port in (broker.rpartition(":") for broker in brokers)):
                raise ValueError(f"a Kafka log is kafka://host:port,host2:port, not {url!r}")
            from shared.log.kafka import KafkaLog  # its driver takes a while to import

            return KafkaLog(bootstrap)
        case scheme:
            raise ValueError(f"a log's URL begins with postgres:// or kafka://, not {scheme or 'with nothing'}")
