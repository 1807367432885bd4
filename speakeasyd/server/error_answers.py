"""The one form of errors in the API: a message and a hint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from speakeasyd.domain.wrong_values import explain_value
from speakeasyd.errors import FileFault, LedgerError, QueryError, QueryTimeout, SpeakeasyError
from speakeasyd.recorder.libraries import RecorderBusy, RecorderUnavailable
from speakeasyd.server.schemas import ErrorAnswer

_STATUSES: Mapping[type[SpeakeasyError], int] = {
    LedgerError: 503,
    QueryTimeout: 503,
    RecorderBusy: 409,
    RecorderUnavailable: 503,
    FileFault: 422,
    QueryError: 422,
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": what}
    for code, what in {
        400: "The request is wrong.",
        401: "A token is needed.",
        403: "The request comes from another site.",
        404: "Not found.",
        409: "Conflicts with the job's state.",
        413: "Too large.",
        422: "A value is wrong.",
        503: "Temporarily unavailable.",
    }.items()
}
"""Error responses of every route."""
_HINTS: Mapping[int, str] = {413: "`server.upload_mb` is the limit of an upload."}


class RequestRefused(SpeakeasyError):
    """A request that is refused with an HTTP status."""

    def __init__(self, status: int, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.status = status


@contextmanager
def conflicts_as_409() -> Iterator[None]:
    """Answer expected errors that have no status of their own with 409: the state forbids it."""
    try:
        yield
    except SpeakeasyError as error:
        if isinstance(error, (RequestRefused, *_STATUSES)):
            raise
        raise RequestRefused(409, str(error), hint=error.hint) from error


def build_error(status: int, message: str, hint: str = "") -> JSONResponse:
    return JSONResponse({"error": {"message": message, "hint": hint}}, status)


def install_handlers(app: FastAPI) -> None:
    app.add_exception_handler(SpeakeasyError, _on_expected_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_defect)


async def _on_expected_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SpeakeasyError)  # noqa: S101 - what it is registered for
    known = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 400)
    status = error.status if isinstance(error, RequestRefused) else known
    return build_error(status, str(error), error.hint)


async def _on_http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    answer = build_error(error.status_code, str(error.detail), _HINTS.get(error.status_code, ""))
    answer.headers.update(error.headers or {})
    return answer


async def _on_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return build_error(422, explain_value(where or "the request", first))


async def _on_defect(_request: Request, _error: Exception) -> JSONResponse:
    """Starlette raises the error again after the response, so it reaches the log."""
    return build_error(500, "internal error: a bug in speakeasyd", "The log has the details.")
