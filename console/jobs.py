"""`cvp jobs`, and whoever waits for one: how far it is, in words, and what to do once nobody watches it any more."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from console.client import ENDED, Client, Json, ended_badly
from console.screen import Screen
from console.session import clock, signed_in
from shared import config, errors, ids

PATIENCE_S = 7 * 86_400.0
"""How long a command waits for what it ordered. A person stops earlier, by Ctrl-C; the job goes on either way."""

REPORTED = ("benchmark", "train", "search")
"""Kinds of jobs that a report follows."""

CANCELLED_BY = {"benchmark": "benchmark", "train": "training", "search": "training", "trial": "training"}
"""Kinds of jobs that can be taken back, and the call that does it."""


def progress(job: Json) -> tuple[float, str]:
    """How far a job is (0..1), and what it does. A benchmark counts as one without its `kind`."""
    status, at = job["status"], job["progress"]
    if status == "queued":
        ahead = job.get("waiting_for")
        return 0.0, f"waiting for {ahead}" if ahead else "waiting for its turn"
    if status == "completed":
        return 1.0, "writing the report" if job.get("kind", "benchmark") in REPORTED else ""
    return float(at.get("fraction", 1.0 if "service" in at else 0.0)), _doing(at)


def _doing(at: Json) -> str:
    """Of a running job, by the body of its last report."""
    if "service" in at:
        return f"driving the service: {at['service']}"
    if "candidate" in at:
        outcome = f"{at['p50_ms']:.3f} ms" if "p50_ms" in at else "failed"
        return f"round {at['round']}/{at['rounds']}  {at['candidate']}  {outcome}"
    if "checking" in at:
        return f"checking {at['checking']}{_counted(at)}"
    if "generation" in at:
        best = [f"best {name} {value:.3f}" for name, value in (at["best"] or {}).items()]
        tried = f"generation {at['generation']}/{at['generations']}  {at['evaluations']}/{at['max_evaluations']} tried"
        return "  ".join([f"{at['stage']}{_counted(at)}", tried, *best])
    if at.get("stage") in ("training", "validating"):
        titles = {"loss": "loss", "accuracy": "mAP" if "map50" in at else "accuracy"}
        figures = [f"{title} {at[name]:.3f}" for name, title in titles.items() if name in at]
        validating = ["validating"] if at["stage"] == "validating" else []
        return "  ".join([f"epoch {at['epoch']}/{at['max_epochs']}", *figures, *validating])
    if "step" in at:
        return f"{at['step']}{_counted(at)}"
    return str(at.get("stage", "starting"))


def _counted(at: Json) -> str:
    return f"  {at['done']:,}/{at['total']:,}" if at.get("total") else ""


@contextmanager
def goes_on(screen: Screen, job: Json) -> Iterator[None]:
    """Around a wait: Ctrl-C ends the waiting, and says so; the job goes on."""
    try:
        yield
    except KeyboardInterrupt:
        job_id, kind = job["id"], job.get("kind", "benchmark")
        ending = f", `cvp jobs cancel {job_id}` ends it" if kind in CANCELLED_BY else ""
        screen.line()
        screen.line(f"Job {job_id} goes on: `cvp jobs follow {job_id}` shows it again{ending}.")
        raise


@contextmanager
def watching(screen: Screen, title: str, job: Json) -> Iterator[Callable[[Json], None]]:
    """A bar for a job; call what it gives with every state."""
    with goes_on(screen, job), screen.bar(title) as advance:
        yield lambda state: advance(*progress(state))


def wait(client: Client, screen: Screen, title: str, job_id: str) -> Json:
    """Watch a job until it has ended; its last state.

    Raises:
        errors.EngineFailed: It failed or was cancelled; the message has the reason.
    """
    job = client.job(job_id)
    with watching(screen, title, job) as on_state:
        job = client.wait_for_job(job_id, PATIENCE_S, on_state)
    if job["status"] != "completed":
        raise errors.EngineFailed(ended_badly(f"Job {job_id}", job))
    return job


def show(settings: config.Settings, screen: Screen, limit: int, status: str | None, *, as_json: bool) -> None:
    """List jobs, newest first."""
    with signed_in(settings) as client:
        found = list(itertools.islice(client.jobs(status=status), limit))
    if as_json:
        screen.json(found)
    elif not found:
        screen.line("No jobs.")
    else:
        screen.rows([_row(job) for job in found], wide="now")


def _row(job: Json) -> dict[str, str]:
    part, what = progress(job)
    now = "" if job["status"] in ENDED else f"{part:.0%} {what}" if part else what
    return {
        "job": job["id"],
        "kind": job["kind"],
        "status": job["status"],
        "now": job["error"] or now,
        "ordered (UTC)": clock(job["created_at"]),
    }


def cancel(settings: config.Settings, screen: Screen, job_id: str, *, as_json: bool) -> None:
    """Take a job back, whether it waits or runs.

    Raises:
        errors.InvalidInput: It is of a kind that cannot be cancelled.
    """
    check_id(job_id)
    with signed_in(settings) as client:
        kind = client.job(job_id)["kind"]
        if kind not in CANCELLED_BY:
            raise errors.InvalidInput(
                f"Job {job_id} is no benchmark and no training ({kind}), and only those are cancelled. "
                "A check ends when its model or dataset is deleted, a measurement with its search."
            )
        told = client.cancel(CANCELLED_BY[kind], job_id)
    if as_json:
        screen.json(told)
    else:
        screen.line(f"Job {job_id} is {'cancelled' if told['status'] == 'cancelled' else 'being cancelled'}.")


def check_id(job_id: str) -> None:
    """Raises errors.InvalidInput where this is no id of a job."""
    if not ids.is_id(job_id, "job"):
        raise errors.InvalidInput(f"{job_id[:80]!r} is no id of a job (job_…). `cvp jobs` lists them.")
