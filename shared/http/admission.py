"""Per-tenant admission (DESIGN §9): one tenant's import does not delay another's checkout."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from shared.http.problems import TooManyRequests
from shared.telemetry import HTTP_TURNED_AWAY, Metrics

TENANTS_REMEMBERED_MAX: Final = 10_000
LOOKED_AT_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may ask of one process."""

    rate_per_second: float = 2000.0
    burst: int = 4000
    concurrent: int = 200


@dataclass(slots=True)
class _Account:
    tokens: float
    filled_at: float
    in_flight: int = 0


class Admission:
    """Counts each tenant's requests: a token bucket over time, and a bound on those in flight.

    `now` returns seconds of a clock that never goes back.
    """

    def __init__(self, limits: Limits, now: Callable[[], float], metrics: Metrics) -> None:
        self._limits, self._now, self._metrics = limits, now, metrics
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    @contextmanager
    def admit(self, tenant: str) -> Iterator[None]:
        """Hold a place while the block runs; raises TooManyRequests."""
        account = self._account(tenant)
        if account.in_flight >= self._limits.concurrent:
            self._metrics.count(HTTP_TURNED_AWAY, limit="concurrent")
            raise TooManyRequests(
                f"At most {self._limits.concurrent} requests of a tenant run at once; wait for answers.", 1
            )
        if account.tokens < 1:
            self._metrics.count(HTTP_TURNED_AWAY, limit="rate")
            missing = (1 - account.tokens) / self._limits.rate_per_second
            raise TooManyRequests("The tenant's rate is used up; send more events in one request.", math.ceil(missing))
        account.tokens -= 1
        account.in_flight += 1
        try:
            yield
        finally:
            account.in_flight -= 1

    def _account(self, tenant: str) -> _Account:
        """The tenant's account, filled up to now."""
        now = self._now()
        account = self._accounts.get(tenant)
        if account is None:
            self._forget_idle()
            account = self._accounts[tenant] = _Account(self._limits.burst, now)
        self._accounts.move_to_end(tenant)
        elapsed = max(0.0, now - account.filled_at)
        account.tokens = min(self._limits.burst, account.tokens + elapsed * self._limits.rate_per_second)
        account.filled_at = now
        return account

    def _forget_idle(self) -> None:
        """Make room: of the longest unused accounts those without a request in flight, which are as good as new."""
        for _ in range(LOOKED_AT_MAX):
            if len(self._accounts) < TENANTS_REMEMBERED_MAX:
                return
            tenant, account = next(iter(self._accounts.items()))
            if account.in_flight:
                self._accounts.move_to_end(tenant)
            else:
                del self._accounts[tenant]
