"""The least that a FastAPI server can do: read JSON, answer JSON. What the door and a redemption are compared with."""

from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from shared.http.serve import run, serve


def bare_app() -> FastAPI:
    """One route: the number of items in the array that was sent, or 1."""
    app = FastAPI()

    @app.post("/")
    async def count(request: Request) -> Response:
        body: Any = orjson.loads(await request.body())
        items = len(body) if isinstance(body, list) else 1
        return Response(orjson.dumps({"items": items}), media_type="application/json")

    return app


def _say(port: int) -> None:
    print(f"the bare server listens on http://127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    run(serve(bare_app(), "127.0.0.1", 0, started=_say))
