"""Two crash rounds on each log: real processes, killed and stopped under load, and nothing lost or done twice.

Only operating-system processes can show that a kill between any two lines is harmless; `make soak` runs many more.
Two rounds share out all that may befall a worker, so that the two together must have seen everything.
"""

import pytest

from shared.testing.kafka_rungs import KafkaRung
from tests.crash.rounds import Site, crash_round, missing

SEEDS = (0, 1)


@pytest.mark.slow
async def test_rounds_on_the_postgres_log(postgres_url: str) -> None:
    site = Site(postgres_url)
    assert not missing([await crash_round(site, seed) for seed in SEEDS])


@pytest.mark.slow
@pytest.mark.kafka
async def test_rounds_on_kafka(postgres_url: str, kafka_rung: KafkaRung) -> None:
    site = Site(postgres_url, kafka_rung)
    assert not missing([await crash_round(site, seed) for seed in SEEDS])
