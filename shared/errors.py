"""Every failure a user can meet: one class each, with its code, its HTTP status and whether retrying helps.

The classes travel by `code`: a worker raises one, the wire carries code and message, the gateway raises the same
class again. Messages say what to do, not only what went wrong.
"""

from __future__ import annotations

from typing import ClassVar


class AppError(Exception):
    """Base of all expected failures.

    Args:
        message: One or two plain sentences for the user.
        errors: Field-by-field details, each `{"field": ..., "message": ...}`.
        retry_after_s: When to come back; becomes the `Retry-After` header.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something failed on our side"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, errors: list[dict[str, str]] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.errors = errors
        self.retry_after_s = retry_after_s


class Unauthorized(AppError):
    """No credential, or one that is wrong, expired or revoked."""

    code, status, title = "unauthorized", 401, "Sign in first"


class Forbidden(AppError):
    """A good credential whose role may not do this."""

    code, status, title = "forbidden", 403, "Your role may not do this"


class NotFound(AppError):
    """The id names nothing (or nothing any more)."""

    code, status, title = "not_found", 404, "Not found"


class Conflict(AppError):
    """The request contradicts the present state: a name taken, a model not ready, a key reused."""

    code, status, title = "conflict", 409, "Conflicts with the present state"


class TooLarge(AppError):
    """More bytes, pixels or samples than the stated limit."""

    code, status, title = "too_large", 413, "Too large"


class UnsupportedMedia(AppError):
    """A body of a type this call does not take."""

    code, status, title = "unsupported_media", 415, "Unsupported media type"


class InvalidInput(AppError):
    """The request was understood and cannot be carried out as it stands."""

    code, status, title = "invalid", 422, "Invalid input"


class BadImage(InvalidInput):
    """Image bytes that cannot be decoded, or decode to something the model cannot take."""

    code, title = "bad_image", "The image cannot be used"


class BadTensor(InvalidInput):
    """A tensor of the wrong name, shape or dtype."""

    code, title = "bad_tensor", "The tensor does not fit the model"


class BadModel(InvalidInput):
    """A model file that is refused; the message names the reason."""

    code, title = "bad_model", "The model cannot be used"


class BadDataset(InvalidInput):
    """A dataset that is refused; the message names what was found and what is expected."""

    code, title = "bad_dataset", "The dataset cannot be used"


class BadOutput(InvalidInput):
    """The model answers this input with NaN, infinity, or what its output cannot hold."""

    code, title = "bad_output", "The model gives no usable answer"


class PoisonRequest(InvalidInput):
    """A request that killed the worker that ran it alone."""

    code, title = "poison_request", "This request stops the engine"


class QueueFull(AppError):
    """A bounded queue is at its bound; waiting helps."""

    code, status, title, retryable = "queue_full", 429, "Too many requests are waiting", True


class TooManyAttempts(AppError):
    """Too many wrong passwords for one user name; the next sign-in has to wait."""

    code, status, title, retryable = "too_many_attempts", 429, "Too many wrong passwords", True


class Unavailable(AppError):
    """No worker, no broker, no database, or draining; another try later may succeed."""

    code, status, title, retryable = "unavailable", 503, "Not available right now", True


class EngineFailed(AppError):
    """An engine could not run the model on this input, though the input is of the right form."""

    code, status, title = "engine_failed", 422, "The engine failed on this input"


class DeadlineExceeded(AppError):
    """The request's time ran out, in the queue or in inference."""

    code, status, title, retryable = "deadline_exceeded", 504, "It took too long", True


class EngineUnavailable(AppError):
    """An engine, or a precision of it, cannot run on this machine; the message says why."""

    code, status, title = "engine_unavailable", 422, "This engine cannot run here"


def _tree(cls: type[AppError]) -> list[type[AppError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _tree(child))]


BY_CODE: dict[str, type[AppError]] = {cls.code: cls for cls in _tree(AppError)}


def from_code(code: str, message: str, *, retry_after_s: float | None = None) -> AppError:
    """The error a peer process reported, as the class it was raised as."""
    return BY_CODE.get(code, AppError)(message, retry_after_s=retry_after_s)
