"""`cvp deploy`: order what serves a model, follow it until it serves or failed, and say what serves now."""

from __future__ import annotations

from console import printout
from console.client import Json
from console.jobs import goes_on, progress
from console.screen import Screen
from console.session import find, signed_in
from shared import config, errors
from shared.specs import DeploymentOrder

BOUND_S = 900.0
"""Trying takes seconds; a benchmark that has the machine to itself may be ahead of it."""

TAKE_OVER_S = 30.0


def run(settings: config.Settings, screen: Screen, model: str, order: DeploymentOrder | None) -> None:
    """Order, wait, tell.

    Args:
        settings: In force.
        screen: Where it is told.
        model: Its id, or a name that one model has.
        order: What is to serve it; None: the default again.

    Raises:
        errors.EngineFailed: It cannot serve; what served before goes on.
    """
    with signed_in(settings) as client:
        model_id = find(client, "models", model, to_use=True)["id"]
        if order is None:
            client.revert(model_id)
            found = client.deployment(model_id)
        else:
            ordered = client.deploy(model_id, order)
            with goes_on(screen, {"id": ordered["job_id"], "kind": "activate"}), screen.waiting("Activating") as say:
                client.wait_for_job(ordered["job_id"], BOUND_S, lambda job: say(_doing(job)))
                found = client.wait_for_deployment(model_id, BOUND_S, TAKE_OVER_S)
    if found["status"] == "failed":
        raise errors.EngineFailed(
            f"{found['error']} Model {model_id} is served as before: {printout.serving(found['serves'])}."
        )
    screen.line(f"Model {model_id} is served by {printout.serving(found['serves'])}.")
    for note in found["notes"]:
        screen.line(f"  {note}")
    for process in found["processes"]:
        if process["problem"]:
            screen.line(f"  {process['process']}: {process['problem']}", style="red")


def _doing(job: Json) -> str:
    """What an activation waits for, or that it is under way."""
    if job["status"] == "queued":
        return f"{progress(job)[1]}; what serves now goes on"
    return "tried in a process of its own; what serves now goes on"
