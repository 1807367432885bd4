"""The FastAPI application: API routes and page, behind the guard."""

from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speakeasyd import __version__
from speakeasyd.server import (
    error_answers,
    events,
    health,
    jobs,
    openai,
    people,
    recording,
    search,
    speakers,
    status,
    transcript_zip,
    uploads,
)
from speakeasyd.server.context import Lent, ServerContext
from speakeasyd.server.error_answers import RESPONSES, RequestRefused
from speakeasyd.server.event_schema import describe_events
from speakeasyd.server.guard import (
    COOKIE,
    RequestGuard,
    compare_constant_time,
    derive_session,
    peer,
)

PAGE = Path(__file__).parent / "page"
WEEK_S = 7 * 24 * 3600
PREFLIGHT_S = 600  # seconds for which a browser remembers what it was told before a request

router = APIRouter()


def create_application(parts: ServerContext) -> ASGIApp:
    """Build the application. The guard handles every request first."""
    app = build_routes()
    app.state.parts = parts
    guarded = RequestGuard(app, parts.settings.server, parts.wrong_tokens)
    origins = parts.settings.server.origins
    return _add_date(_allow_origins(guarded, origins) if origins else guarded)


def build_routes() -> FastAPI:
    """Build every route, with the schema of the API."""
    app = FastAPI(
        title="speakeasyd",
        version=__version__,
        description="Transcription of audio files. Errors have a message and a hint.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        responses=RESPONSES,
    )
    error_answers.install_handlers(app)
    api = APIRouter(prefix="/api/v1")
    for module in (
        status,
        uploads,
        transcript_zip,
        jobs,
        speakers,
        people,
        search,
        recording,
        events,
    ):
        api.include_router(module.router)
    api.include_router(router)
    app.include_router(api)
    app.include_router(openai.router)
    app.include_router(health.router)
    app.get("/", include_in_schema=False)(_serve_page)
    app.mount("/static", StaticFiles(directory=PAGE))
    describe_events(app, "/api/v1/events")
    return app


def _allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Answer CORS preflight requests for the configured origins; the guard checks the requests."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE", "HEAD"],
        allow_headers=["*"],
        max_age=PREFLIGHT_S,
    )


def _add_date(app: ASGIApp) -> ASGIApp:
    """Add the time to every answer. uvicorn would wake up every second for it."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Date"] = formatdate(usegmt=True)
            await send(message)

        await app(scope, receive, send_dated)

    return run


async def _serve_page() -> FileResponse:
    return FileResponse(PAGE / "index.html")


class Secret(BaseModel):
    token: str = Field(max_length=1000)


@router.post("/session", status_code=204, tags=["session"])
async def open_session(
    request: Request, parts: Lent, secret: Annotated[Secret, Body()], response: Response
) -> None:
    """Exchange the token for a cookie, since audio elements and WebSockets cannot send headers."""
    token = parts.settings.server.token
    if token is None:
        return
    if not compare_constant_time(secret.token.encode(), token.get_secret_value()):
        await parts.wrong_tokens.record_failure(peer(request))
        raise RequestRefused(401, "wrong token")
    response.set_cookie(
        COOKIE,
        derive_session(token.get_secret_value()),
        max_age=WEEK_S,
        httponly=True,
        samesite="strict",
        path="/",
    )
