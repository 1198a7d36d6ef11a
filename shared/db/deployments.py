"""Deployments: what somebody ordered to serve a model, and what became of it.

activating -> active | failed; active -> stale; whatever a later order replaces is retired. A model has one that serves
(active or stale) and one that is being activated, at most; without the former the default serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import msgspec

from shared import clock, ids
from shared.db import connection, jobs, registry
from shared.db.tables import Benchmark, BenchmarkResult, Deployment, Job, Model
from shared.specs import ActivateSpec, EngineName, JpegScale, Precision
from shared.trace import Origin

REPLACED = "A later order took its place."
LATEST = ("activating", "failed", *registry.SERVING)


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What is to serve a model, in every detail that decides its answers and its speed."""

    model_id: str
    engine: EngineName
    precision: Precision
    batch_size: int
    threads: int
    instances: int
    file_sha256: str
    golden_sha256: str | None
    fingerprint: str
    """Of the machine it is meant for."""
    source: Literal["report", "manual"]
    report_id: str | None = None
    jpeg_scale: JpegScale | None = None
    """None: as the model's contract says."""


def order(choice: Choice, user_id: str, *, limit: int | None = None, origin: Origin | None = None) -> str:
    """Insert a deployment and the job that activates it, inside the caller's `write()`; returns its id.

    An order that is still being activated is given up for it.

    Raises:
        errors.NotFound: No such model.
        errors.Conflict: It is not ready.
        errors.QueueFull: `limit` jobs are waiting already.
    """
    registry.described(registry.model(choice.model_id))
    _retire(choice.model_id, ("activating", "failed"), origin)
    deployment_id = ids.new_id("dep")
    spec = ActivateSpec(model_id=choice.model_id, deployment_id=deployment_id)
    job_id = jobs.insert("activate", spec, user_id=user_id, origin=origin, limit=limit)
    Deployment.insert(
        id=deployment_id,
        status="activating",
        job_id=job_id,
        created_by=user_id,
        created_at_ms=clock.now_ms(),
        **msgspec.structs.asdict(choice),
    ).execute()
    return deployment_id


def revert(model_id: str, origin: Origin) -> None:
    """Let the default serve a model again, inside the caller's `write()`; orders under way are given up.

    Raises:
        errors.NotFound: No such model.
    """
    registry.model(model_id)
    _retire(model_id, LATEST, origin)
    registry.bump("models")


def _retire(model_id: str, statuses: tuple[str, ...], origin: Origin | None = None) -> None:
    mine = (Deployment.model_id == model_id) & Deployment.status.in_(statuses)
    for row in list(Deployment.select().where(mine & (Deployment.status == "activating"))):
        Deployment.update(error=REPLACED).where(Deployment.id == row.id).execute()
        for job in list(Job.select(Job.id).where((Job.id == row.job_id) & Job.status.in_(jobs.OPEN))):
            jobs.request_cancel(job.id, origin.request_id if origin else None)
    Deployment.update(status="retired", retired_at_ms=clock.now_ms()).where(mine).execute()


def find(deployment_id: str) -> Deployment:
    """The row of a deployment."""
    with connection.read():
        return Deployment.get_by_id(deployment_id)


def latest(model_id: str) -> Deployment | None:
    """The last order for a model, unless it was replaced or taken back; None where nobody ordered anything."""
    with connection.read():
        mine = (Deployment.model_id == model_id) & Deployment.status.in_(LATEST)
        return cast("Deployment | None", Deployment.select().where(mine).order_by(Deployment.id.desc()).first())


def activated(deployment_id: str, fingerprint: str, provider: str, notes: list[str]) -> bool:
    """Let a deployment serve instead of the one before, inside the transaction that ends its job.

    Returns:
        Whether it does: not where a later order took its place meanwhile.
    """
    row = Deployment.get_by_id(deployment_id)
    if row.status != "activating":
        return False
    _retire(row.model_id, registry.SERVING)
    Deployment.update(
        status="active", fingerprint=fingerprint, provider=provider, notes=notes, activated_at_ms=clock.now_ms()
    ).where(Deployment.id == deployment_id).execute()
    registry.bump("models")
    return True


def fail(deployment_id: str, reason: str) -> None:
    """A deployment cannot serve; what served goes on. Within the transaction that ends its job."""
    ours = (Deployment.id == deployment_id) & (Deployment.status == "activating")
    Deployment.update(status="failed", error=reason).where(ours).execute()


def golden(
    model_id: str, engine: EngineName, precision: Precision, benchmark_id: str | None = None
) -> tuple[str, str] | None:
    """Samples with the answers of an engine in a precision, as `(benchmark, sha256)`: of one benchmark, or the last."""
    taken = BenchmarkResult.golden_sha256.is_null(False)
    about = (BenchmarkResult.engine == engine) & (BenchmarkResult.precision == precision)
    which = Benchmark.model_id == model_id if benchmark_id is None else Benchmark.id == benchmark_id
    query = BenchmarkResult.select(BenchmarkResult.benchmark_id, BenchmarkResult.golden_sha256)
    query = query.join(Benchmark, on=(Benchmark.id == BenchmarkResult.benchmark_id)).where(taken & about & which)
    with connection.read():
        row: Any = query.order_by(BenchmarkResult.id.desc()).tuples().first()
    return None if row is None else (str(row[0]), str(row[1]))


def is_stale(fingerprint: str) -> bool:
    """Whether an active deployment was activated on another machine, or with a file that is no more."""
    with connection.read():
        return any(True for _ in _stale(fingerprint))


def mark_stale(fingerprint: str) -> list[str]:
    """Mark those, and order each to be activated anew with what is here now; returns the ids of their models.

    They serve on. An activation that fails leaves its deployment stale: it is not tried again by itself.
    """
    with connection.write(durable=True, name="stale"):
        found = list(_stale(fingerprint))
        for row, why in found:
            Deployment.update(status="stale", error=why).where(Deployment.id == row.id).execute()
            file_sha256 = registry.file_of(row.model_id, cast(EngineName, row.engine), cast(Precision, row.precision))
            ordered = (Deployment.model_id == row.model_id) & (Deployment.status == "activating")
            if file_sha256 is not None and not Deployment.select().where(ordered).exists():
                order(_again(row, file_sha256, fingerprint), row.created_by)
        if found:
            registry.bump("models")
    return [row.model_id for row, _ in found]


def _again(row: Deployment, file_sha256: str, fingerprint: str) -> Choice:
    fields = {name: getattr(row, name) for name in Choice.__struct_fields__}
    if file_sha256 != row.file_sha256:
        fields["golden_sha256"] = None  # of other answers
    return msgspec.convert(fields | {"file_sha256": file_sha256, "fingerprint": fingerprint}, Choice)


def _stale(fingerprint: str) -> Iterator[tuple[Deployment, str]]:
    for row in Deployment.select().where(Deployment.status == "active"):
        if row.fingerprint != fingerprint:
            yield row, f"The machine, a driver or an engine changed: {row.fingerprint} is {fingerprint} now."
        elif row.file_sha256 is not None and not registry.has_file(row.model_id, row.file_sha256):
            yield row, f"The file it was activated with ({row.file_sha256[:12]}) is not the model's any more."


def in_trouble() -> list[tuple[str, str]]:
    """Stale deployments, as `(name of the model, why)`."""
    query = Deployment.select(Model.name, Deployment.error).join(Model, on=(Model.id == Deployment.model_id))
    with connection.read():
        rows: Any = query.where(Deployment.status == "stale").order_by(Deployment.id).tuples()
        return [(name, error or "") for name, error in rows]
