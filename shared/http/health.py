"""`/livez` (the process answers), `/readyz` (what it needs answers too) and `/metrics`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from fastapi import APIRouter, Response
from pydantic import BaseModel

from shared.http.problems import NotReady, problem_responses
from shared.http.routes import router
from shared.telemetry import READY, Metrics

CHECK_SECONDS_MAX: Final = 2.0

Check = Callable[[], Awaitable[str]]
"""Returns what is wrong, in words for an operator, or an empty text. An exception counts as wrong."""


class Live(BaseModel):
    status: str = "live"


class Ready(BaseModel):
    """Every check by name; `ok` or what is wrong."""

    status: str = "ready"
    checks: dict[str, str]


def health_routes(checks: Mapping[str, Check], metrics: Metrics, seconds_max: float = CHECK_SECONDS_MAX) -> APIRouter:
    routes = router(tags=["operations"])

    @routes.get("/livez")
    async def livez() -> Live:
        """The process runs and answers."""
        return Live()

    @routes.get("/readyz", responses=problem_responses(503))
    async def readyz() -> Ready:
        """Everything that is needed to serve answers."""
        found = await asyncio.gather(*(_run(check, seconds_max) for check in checks.values()))
        results = dict(zip(checks, found, strict=True))
        for name, wrong in results.items():
            metrics.set(READY, 0 if wrong else 1, check=name)
        shown = {name: wrong or "ok" for name, wrong in results.items()}
        if failed := [name for name, wrong in results.items() if wrong]:
            raise NotReady(f"Look after: {', '.join(failed)}.", checks=shown)
        return Ready(checks=shown)

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def exposition() -> Response:
        """Prometheus metrics of this process."""
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


async def _run(check: Check, seconds_max: float) -> str:
    try:
        async with asyncio.timeout(seconds_max):
            return await check()
    except TimeoutError:
        return f"no answer within {seconds_max:g} s"
    except Exception as error:  # whatever a check raises is its finding
        return f"failed with {type(error).__name__}"
