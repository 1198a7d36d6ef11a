"""The one map from an exception to an answer: `application/problem+json` for every failure, below /v2 its own form."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException

from gateway.answers import Answer
from shared import errors, wording

PROBLEM_JSON = "application/problem+json"
MISFIT = "The request does not fit; see `errors`."
NO_SUCH_PATH = "There is no such path; /schema lists every call."
OPEN_INFERENCE = "/v2"
NOT_HERE = (
    "There is no such path. Of the Open Inference Protocol there are health, metadata and inference with binary data, "
    "but no shared memory, repository, configuration, statistics, trace or generate; /schema lists every call."
)
CLIENT_CLOSED = 499
"""What the log shows for a client that left before its answer; nothing is sent."""

logger = logging.getLogger(__name__)


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with one field."""

    field: str
    message: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a call was refused (RFC 9457), with our code and the request id to quote when asking for help."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call below /v2 was refused, as the Open Inference Protocol has it."""

    error: str


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer."""


class MethodNotAllowed(errors.AppError):
    """The path exists, but not for this method."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This path takes {allowed}; /schema lists every call.")
        self.allowed = allowed


class BodyTooSlow(errors.AppError):
    """The body of the request stopped arriving, or only drips."""

    code, status, title, retryable = "body_too_slow", 408, "The body arrives too slowly", True


class UpgradeRequired(errors.AppError):
    """A path that only speaks WebSocket was asked for something else."""

    code, status, title = "upgrade_required", 426, "This is a WebSocket"


class OriginRefused(errors.AppError):
    """A page of another origin asks for what only our own pages and those of `CORS_ORIGINS` may have."""

    code, status, title = "origin", 403, "Pages of this origin may not do this"


class CsrfRefused(errors.AppError):
    """A call with a session cookie that changes something, without the CSRF token of that session."""

    code, status, title = "csrf", 403, "The page did not prove that it is ours"


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to a request that ended in `error`."""
    request_id = request.scope["state"].get("request_id", "")
    if isinstance(error, ClientGone) or _left_early(request, error):
        return Response(b"", status_code=CLIENT_CLOSED)
    known = _misfit(error, request) if isinstance(error, ValidationException) else as_app_error(error)
    if known is None:
        logger.error("unexpected failure", exc_info=error, extra={"request_id": request_id, "path": request.url.path})
        known = errors.AppError("Something unexpected failed on our side. Quote the request id when you report it.")
    told = refusal(known, request.scope["path"], request_id)
    return Answer(told.body, status_code=told.status, media_type=told.media_type, headers=_headers(known, error))


class Told(NamedTuple):
    """A failure in the words of the path it happened on."""

    status: int
    media_type: str
    body: bytes


def refusal(known: errors.AppError, path: str, request_id: str) -> Told:
    """What a client is told of a stated failure."""
    if is_open_inference(path):
        return _open_inference(known)
    problem = Problem(
        type=f"urn:cv-platform:problem:{known.code}",
        title=known.title,
        status=known.status,
        detail=known.message,
        code=known.code,
        request_id=request_id,
        errors=None if known.errors is None else msgspec.convert(known.errors, list[FieldError]),
    )
    return Told(known.status, PROBLEM_JSON, msgspec.json.encode(problem))


def is_open_inference(path: str) -> bool:
    """Whether a path belongs to the Open Inference Protocol, which has its own form of refusals."""
    return path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/")


def _open_inference(known: errors.AppError) -> Told:
    """The protocol has one sentence, and 400 for what does not fit."""
    bad_request = known.status == HTTPStatus.UNPROCESSABLE_ENTITY
    message = NOT_HERE if known.message == NO_SUCH_PATH else known.message
    status = HTTPStatus.BAD_REQUEST if bad_request else known.status
    return Told(status, "application/json", msgspec.json.encode(Refusal(error=message)))


def _left_early(request: Request[Any, Any, Any], error: Exception) -> bool:
    """Litestar, reading a body, takes a client that leaves in the middle of it for a failure of the server."""
    return isinstance(error, InternalServerException) and "left_early" in request.scope["state"]


def as_app_error(error: Exception) -> errors.AppError | None:
    """The stated failure behind an exception; None for one nobody foresaw."""
    if isinstance(error, errors.AppError):
        return error
    if isinstance(error, HTTPException):
        return _by_status(error)
    return None


def _by_status(error: HTTPException) -> errors.AppError | None:
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return errors.NotFound(NO_SUCH_PATH)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return MethodNotAllowed(_allowed(error))
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return errors.TooLarge("The body is larger than this call takes.")
        case HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            return errors.UnsupportedMedia(error.detail)
        case status if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return errors.InvalidInput(error.detail or "The request cannot be understood.")
    return None


def _misfit(error: ValidationException, request: Request[Any, Any, Any]) -> errors.InvalidInput:
    """What is wrong with the parameters of a call, one by one."""
    types = request.route_handler.signature_model.__annotations__
    definitions = request.route_handler.parsed_fn_signature.parameters
    found = []
    for item in error.extra if isinstance(error.extra, list) else []:
        key = str(item.get("key", ""))
        if key in types:
            name = getattr(definitions[key].kwarg_definition, "name", None) or key
            if key == "data" and item.get("message") == repr(key):  # Litestar's words for a body of no bytes
                return errors.InvalidInput("The body is empty; it must be a JSON object. /schema shows one.")
            message = wording.explained(types[key], str(item.get("message", "")))[1]
            found.append({"field": name, "message": wording.of_text(message)})
    return errors.InvalidInput(MISFIT, errors=found) if found else errors.InvalidInput(error.detail)


def _allowed(error: HTTPException) -> str:
    """The methods of a path as Litestar lists them, less OPTIONS, which only answers browsers that ask first."""
    listed = next((value for name, value in (error.headers or {}).items() if name.lower() == "allow"), "")
    return ", ".join(sorted(set(listed.split(", ")) - {"OPTIONS"}))


def _headers(error: errors.AppError, cause: Exception) -> dict[str, str]:
    given = (cause.headers or {}) if isinstance(cause, HTTPException) else {}
    return {name: value for name, value in given.items() if name.lower() != "allow"} | headers_of(error)


def headers_of(error: errors.AppError) -> dict[str, str]:
    """What goes with a stated failure besides its words."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif error.retryable and error.status in (429, 503):
        headers["Retry-After"] = "1"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allowed
    if isinstance(error, UpgradeRequired):
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return headers
