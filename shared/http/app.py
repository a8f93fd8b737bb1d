"""The one way to build an API: routers in, a FastAPI application with the house's errors, limits and operations out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from shared.http.admission import Admission
from shared.http.credentials import Credentials
from shared.http.edge import Edge
from shared.http.health import Check, health_routes
from shared.http.openapi import document_problems
from shared.http.problems import map_problems
from shared.http.routes import Route
from shared.telemetry import Metrics

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

SCHEMA_PATH: Final = "/openapi.json"


class Api(FastAPI):
    """FastAPI, wrapped in the Edge, with an OpenAPI document that names every problem."""

    def __init__(self, metrics: Metrics, **options: Any) -> None:
        self._metrics = metrics
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        return Edge(super().build_middleware_stack(), self._metrics)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document_problems(super().openapi())
        return self.openapi_schema


def build_app(
    title: str,
    routers: Sequence[APIRouter],
    *,
    credentials: Credentials,
    admission: Admission,
    metrics: Metrics,
    checks: Mapping[str, Check],
    version: str = "1",
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """An application over routers made by `shared.http.routes.router`; `checks` by name are those of /readyz.

    Raises ValueError for a router with other routes: their bodies would be unbounded.
    """
    app = Api(metrics, title=title, version=version, lifespan=lifespan, openapi_url=SCHEMA_PATH, redirect_slashes=False)
    app.state.credentials, app.state.admission = credentials, admission
    map_problems(app)
    for one in (*routers, health_routes(checks, metrics)):
        for route in one.routes:
            if isinstance(route, APIRoute) and not isinstance(route, Route):
                raise ValueError(f"{route.path} is not of shared.http.routes.router()")
        app.include_router(one)
    return app
