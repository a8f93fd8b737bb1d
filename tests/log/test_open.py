"""From a URL to a log."""

import pytest

from shared.log.kafka import KafkaLog
from shared.log.open import open_log
from shared.log.port import Log
from shared.log.postgres import PostgresLog


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgres://regulars:secret@db:5432/regulars", PostgresLog),
        ("postgresql://postgres@/postgres?host=/var/run", PostgresLog),
        ("kafka://localhost:9092", KafkaLog),
        ("kafka://one:9092,two:9092,three:9093/", KafkaLog),
    ],
)
async def test_a_url_opens_its_kind_of_log(url: str, kind: type[Log]) -> None:
    log = open_log(url)
    assert isinstance(log, kind)
    await log.close()


@pytest.mark.parametrize("url", ["", "localhost:9092", "redis://x:1", "kafka://", "kafka://broker", "kafka://a:1,b"])
async def test_any_other_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="kafka://"):
        open_log(url)
