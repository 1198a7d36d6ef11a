"""What every call shares: parameters, documented problems, pages, and who is asking."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar, cast

import msgspec
from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter

from gateway.answers import Answer
from gateway.auth import Identity
from gateway.context import Context
from gateway.errors import MISFIT, PROBLEM_JSON, Problem
from gateway.schemas import Listing
from shared import clock, errors, wording
from shared.artifacts import ArtifactStore
from shared.db import connection, idempotency, jobs, registry
from shared.db.accounts import Account
from shared.db.pages import Page
from shared.specs import LANE_OF
from shared.trace import Origin
from shared.verdict.figures import cell

V1 = "/api/v1"
BENCHMARK_FIRST = (
    "There is no {} file of this model here. POST /api/v1/benchmark with `precisions` makes one (INT8 needs a "
    "`dataset_id` to calibrate with), measures it and checks its answers."
)

Http: TypeAlias = Request[Any, Any, Any]
Injected: TypeAlias = NamedDependency[Context]
Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=200, description="Items in the page.")]
Cursor: TypeAlias = Annotated[
    str | None, QueryParameter(max_length=100, description="`next_cursor` of the page before.")
]
IdempotencyKey: TypeAlias = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Repeating a request with the same key and body within 24 h gives the first answer again.",
    ),
]

_PROBLEMS = {
    401: "No credential, or a bad one.",
    403: "The role may not do this.",
    404: "The id names nothing.",
    408: "The body arrives too slowly.",
    409: "Conflicts with the present state.",
    413: "Too large.",
    415: "A body of a type this call does not take.",
    422: "Invalid; `errors` names the fields.",
    429: "Too much waits; see Retry-After.",
    503: "Not available right now; see Retry-After.",
    504: "It took too long.",
}

Row = TypeVar("Row")
Item = TypeVar("Item")


def problems(*statuses: int, signed_in: bool = True) -> dict[int, ResponseSpec]:
    """The refusals of a call, for its documentation; 401, 403 and 422 come by themselves."""
    always = (401, 403, 422) if signed_in else (422,)
    return {
        status: ResponseSpec(Problem, media_type=PROBLEM_JSON, description=_PROBLEMS[status], generate_examples=False)
        for status in (*always, *statuses, 503)
    }


async def known_parameters_only(request: Http) -> None:
    """Stands before every call: a parameter that is misspelt must not pass for one that was left out.

    Raises:
        errors.InvalidInput: The query has names that the call does not take, or one of them twice.
    """
    if not request.scope["query_string"]:
        return
    handler = request.route_handler
    known = [
        field.kwarg_definition.query or name
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    ]
    found = [
        {"field": name[:80], "message": wording.unknown("parameter", known)}
        for name in request.query_params
        if name not in known
    ]
    given = Counter(name for name, _ in request.query_params.multi_items())
    found += [
        {"field": name, "message": f"given {count} times; give it once"}
        for name, count in given.items()
        if count > 1 and name in known
    ]
    if found:
        raise errors.InvalidInput(MISFIT, errors=found)


def account_of(request: Http) -> Account:
    """Who is asking; only in calls that the access table gives to signed-in users."""
    account: Account = request.scope["state"]["account"]
    return account


def identity_of(request: Http) -> Identity:
    """The credential behind the request."""
    identity: Identity = request.scope["state"]["identity"]
    return identity


def origin_of(request: Http) -> Origin:
    """What the work that this request starts is told of it."""
    state = request.scope["state"]
    return Origin(state["request_id"], state["traceparent"])


def about(request: Http, resource: str, user_id: str | None = None) -> None:
    """Tell the audit log what a call was about where its path does not, and who called where no credential says."""
    request.scope["state"].update(audit_resource=resource, audit_user=user_id)


def iso(at_ms: int | None) -> str | None:
    """A time that may not have come yet."""
    return None if at_ms is None else clock.iso(at_ms)


def raw(stored: str | None) -> Any:
    """Stored JSON for an answer as it is: neither decoded nor encoded again."""
    return None if stored is None else msgspec.Raw(stored)


def listing(page: Page[Row], shape: Callable[[Row], Item]) -> Listing[Item]:
    """A page of rows as the API shows it."""
    return Listing(items=[shape(row) for row in page.rows], next_cursor=page.next_cursor)


def encoded(page: Page[Row], shape: Callable[[Row], Item]) -> bytes:
    """The same as JSON: where pages are long, the thread that has read one writes it too, off the event loop."""
    return msgspec.json.encode(listing(page, shape))


def ready(body: bytes) -> Response[bytes]:
    """JSON that is encoded already as a response."""
    return Answer(body, media_type="application/json")


def accepted(body: msgspec.Struct, location: str) -> idempotency.Answer:
    """The answer to a call that started work."""
    return idempotency.Answer(status=202, response=msgspec.Raw(msgspec.json.encode(body)), location=location)


def table(name: str, heading: Sequence[str], rows: Iterable[Iterable[Any]], next_cursor: str | None) -> Response[Any]:
    """A page as a CSV file, which no spreadsheet runs; the cursor of the next page is in a header."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(heading)
    writer.writerows([cell(value) for value in row] for row in rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    if next_cursor:
        headers["X-Next-Cursor"] = next_cursor
    return Response(out.getvalue().encode(), media_type="text/csv", headers=headers)


def once(
    key: idempotency.Key | None, body_sha256: str, place: Callable[[], tuple[msgspec.Struct, str]]
) -> idempotency.Answer:
    """Carry out a call that starts work, or repeat the answer that its idempotency key got; in one transaction.

    Args:
        key: Of the call.
        body_sha256: Of what it says.
        place: Writes the rows; returns the body of the answer and where to follow the work.
    """
    with connection.write(durable=True, name="accept"):
        if key is not None and (before := idempotency.recall(key, body_sha256)):
            return before
        answer = accepted(*place())
        if key is not None:
            idempotency.remember(key, body_sha256, answer)
    return answer


async def cancelled(request: Http, context: Context, job_id: str, find: Callable[[str], Row], noun: str) -> Row:
    """Cancel a job that orders of users are, at once while it waits, within seconds while it runs; returns its row.

    Args:
        request: Of its owner or of an administrator.
        context: The gateway's parts.
        job_id: The job.
        find: Gives its row, or refuses with NotFound.
        noun: What such a job is called.
    """
    await context.store.write(_cancel, request, job_id, find, noun)
    row: Any = await context.store.read(find, job_id)
    told = {"id": job_id, "kind": row.kind, "status": row.status, "progress": msgspec.json.decode(row.progress)}
    context.broker.publish(f"job.{job_id}", told | {"request_id": row.request_id})
    context.broker.doorbell(LANE_OF[row.kind])
    return cast(Row, row)


def _cancel(request: Http, job_id: str, find: Callable[[str], Any], noun: str) -> None:
    account = account_of(request)
    with connection.write(durable=True, name="cancel"):
        owner = find(job_id).created_by
        if account.role != "admin" and owner != account.id:
            raise errors.Forbidden(f"This {noun} is somebody else's; its owner or an administrator may cancel it.")
        jobs.request_cancel(job_id, origin_of(request).request_id)


def respond(answer: idempotency.Answer) -> Response[bytes]:
    """A stored or fresh answer as a response."""
    headers = {"Location": answer.location} if answer.location else {}
    return Answer(bytes(answer.response), status_code=answer.status, media_type="application/json", headers=headers)


def key_of(request: Http, given: str | None) -> idempotency.Key | None:
    """The idempotency key in its scope: the user and the call.

    Raises:
        errors.InvalidInput: The key has characters outside printable ASCII.
    """
    if given is None:
        return None
    if not (given.isascii() and given.isprintable()):
        raise errors.InvalidInput(
            "The Idempotency-Key may hold printable ASCII only.",
            errors=[{"field": "Idempotency-Key", "message": "printable ASCII only"}],
        )
    route = f"{request.method} {request.scope['path_template']}"
    return idempotency.Key(user_id=account_of(request).id, route=route, key=given)


def remove_files(store: ArtifactStore, sha256s: Iterable[str]) -> None:
    """Delete files whose rows are gone, unless an upload brought one back meanwhile."""
    with connection.write():  # files are published inside `write()`: nobody brings one back while we look
        for sha256 in sha256s:
            if not registry.is_kept(sha256):
                store.remove(sha256)
