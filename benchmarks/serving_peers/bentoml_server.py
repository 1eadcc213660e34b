"""BentoML with two workers; MODEL is in the environment, as `bentoml serve` starts this file itself."""

import os

import bentoml
import numpy as np
from generator import Generator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

app = Starlette()


@bentoml.service(
    workers=2, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}}
)
@bentoml.asgi_app(app, path="/")
class Images:
    """Rows in, bytes out."""

    def __init__(self) -> None:
        generator = Generator(os.environ["MODEL"])

        async def generate(request: Request) -> Response:
            rows = np.frombuffer(await request.body(), dtype=np.int64).reshape(-1, 2)
            return Response(generator(rows).tobytes(), media_type="application/octet-stream")

        app.router.routes.append(Route("/generate", generate, methods=["POST"]))
