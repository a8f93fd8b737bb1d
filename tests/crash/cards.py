"""What befalls the worker processes of one round: a seeded deck of cards, one for each life."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.crash.acts import POINTS, Act, Verb

PASSES_MAX: Final = 3
STOPS: Final = ("batch.2", "batch.2", "batch.3", "relay.append", "relay.append", "batch.6")
"""Where a process stands still: before its transaction holds the position (a stale owner), before it appends what its
successor appends too (a repeated suffix), and with its locks held (the database must end it)."""
KILLS_ANY_TIME: Final = 3
STOPS_ANY_TIME: Final = 1


@dataclass(frozen=True)
class Card:
    """Of one life: acts of its own, and signals from outside, so many seconds after its start.

    A process that stopped is woken up when its successor has taken over, and killed soon afterwards.
    """

    acts: tuple[Act, ...] = ()
    kill_after: float | None = None
    stop_after: float | None = None

    @property
    def stops(self) -> bool:
        return self.stop_after is not None or any(act.verb == "stop" for act in self.acts)


def deck_of(seed: int) -> "Deck":
    """The cards of a round. Rounds 2n and 2n + 1 share out one full deck, so that any such pair meets every card."""
    draw = Random(seed // 2)

    def act(verb: Verb, point: str) -> Act:
        return Act(verb, point, draw.randint(1, PASSES_MAX))

    kills = [Card((act("kill", point),)) for point in POINTS]
    kills += [Card(kill_after=draw.uniform(0.2, 2.0)) for _ in range(KILLS_ANY_TIME)]
    stops = [Card((act("stop", point),)) for point in STOPS]
    stops += [Card(stop_after=draw.uniform(0.2, 1.0)) for _ in range(STOPS_ANY_TIME)]
    draw.shuffle(kills)
    draw.shuffle(stops)
    # A stopped process needs the longest, so its card is dealt first.
    return Deck([*stops[seed % 2 :: 2], *kills[seed % 2 :: 2]])


class Deck:
    """Dealt card by card until none is left."""

    def __init__(self, cards: Sequence[Card]) -> None:
        self._cards = list(cards)

    def __len__(self) -> int:
        return len(self._cards)

    def deal(self, *, may_stop: bool, acts_only: bool) -> Card | None:
        """The next card, or None when there is none for this process."""
        for card in self._cards:
            if (may_stop or not card.stops) and (card.acts or not acts_only):
                self._cards.remove(card)
                return card
        return None

    def put_back(self, card: Card) -> None:
        """It could not be played."""
        self._cards.append(card)

    def clear(self) -> None:
        self._cards.clear()
