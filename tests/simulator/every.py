"""A seed decides what is run with it: the toy workers, door and points, or one of them twice (`twins`)."""

from shared.testing.simulator.outcome import Outcome
from shared.testing.simulator.toy import run as toy
from shared.testing.simulator.toy import twins as toy_twins
from tests.simulator.shop import run as shop
from tests.simulator.shop import twins as shop_twins

RUN = "tests.simulator.every:run_seed"
"""For `python -m shared.testing.simulator.soak --run`."""


def run_seed(seed: int) -> Outcome:
    """Of twenty seeds twelve are the toys', six door and points', one each of twins."""
    match seed % 20:
        case 19:
            return shop_twins.run_seed(seed)
        case 9:
            return toy_twins.run_seed(seed)
        case 1 | 4 | 7 | 11 | 14 | 17:
            return shop.run_seed(seed)
        case _:
            return toy.run_seed(seed)
