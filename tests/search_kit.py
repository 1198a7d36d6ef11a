"""Searches without training: rows to order them on, and a trainer that ends trials by writing what came of them."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

from shared import clock
from shared.db import connection, searches
from shared.db.tables import Dataset, Job, Model, Search, SearchTrial, Training
from shared.genes import BOTH, ChoiceGene, Genome, SearchSpec, TrainingOrder, genes_of
from shared.trials import Latencies, Latency, Order, Outcome, Result, Trial
from tests import training_kit
from trainer import journal
from trainer.genome import key

EPOCHS = 9
MODEL, DATASET = "mdl_search", "ds_search"
TWO: dict[str, Any] = {"objectives": BOTH, "search_space": {"image_size": ChoiceGene(choices=(16, 32))}}
"""Fields of a search for accuracy and latency."""
LATENCIES = Latencies(
    engine="onnxruntime",
    device="CPU",
    threads=2,
    sizes=[
        Latency(image_size=16, latency_ms=0.5, rounds_ms=[0.5]),
        Latency(image_size=32, latency_ms=2.0, rounds_ms=[2.0]),
    ],
)


def subjects(user_id: str) -> None:
    """A model and a dataset to be named, once; their files do not exist."""
    if Model.get_or_none(Model.id == MODEL) is not None:
        return
    about = {"description": "", "task_type": "classification", "file_sha256": "0" * 64}
    common = about | {"file_size": 1, "created_by": user_id, "created_at_ms": clock.now_ms()}
    with connection.write():
        Model.insert(
            id=MODEL, name="m", model_type="preset", framework="pytorch", status="converting", **common
        ).execute()
        more = {"status": "preprocessing", "seed": 0, "frames_per_second": 1.0, "job_id": ""}
        Dataset.insert(id=DATASET, name="d", **common, **more).execute()


def order(user_id: str, seed: int = 0, max_epochs: int = EPOCHS, **fields: Any) -> str:
    """Order a search of four generations of six, and two finalists; returns its id."""
    subjects(user_id)
    ga = SearchSpec(**({"population_size": 6, "generations": 4, "finalists": 2} | fields))
    spec = TrainingOrder(model_id=MODEL, dataset_id=DATASET, max_epochs=max_epochs, seed=seed, ga=ga)
    with connection.write():
        return searches.order(spec, ga, user_id, limit=1000)


def quality(genome: Genome, epochs: int, seed: int) -> float | str:
    """The accuracy that a training would reach, or why it fails; best at a learning rate of 0.003."""
    luck = random.Random(f"{key(genome)} {seed}").random()
    if luck < 0.08 or (luck < 0.12 and epochs == EPOCHS):
        return "The loss is not a number after epoch 2."
    larger = 0.05 if genome.get("image_size") == 32 else 0.0
    return (
        math.exp(-abs(math.log10(float(genome["learning_rate"])) + 2.5)) * (0.9 + epochs / 100) - luck / 1000 + larger
    )


def waiting(search_id: str) -> list[Trial]:
    """The trials that are queued."""
    query = SearchTrial.select(SearchTrial.trial).join(Job, on=(Job.id == SearchTrial.job_id))
    with connection.read():
        rows = query.where((SearchTrial.search_id == search_id) & (Job.status == "queued")).order_by(SearchTrial.number)
        return [trial_of(row.trial) for row in rows]


def trial_of(row: Any) -> Trial:
    """As the search asked for it."""
    return msgspec.convert(row, Trial)


def end(job_id: str, reached: float | str, **changed: Any) -> None:
    """End a job that trains as a trainer would: with an accuracy, or why there is none."""
    failed = isinstance(reached, str)
    now = clock.now_ms()
    fields = {"status": "failed" if failed else "completed", "error": reached if failed else None}
    with connection.write():
        Job.update(started_at_ms=now - 1000, finished_at_ms=now, worker=None, attempt=1, **fields).where(
            Job.id == job_id
        ).execute()
        if not failed:
            Training.update(
                result=training_kit.reached(accuracy=float(reached)), final_accuracy=reached, **changed
            ).where(Training.id == job_id).execute()


def end_trial(search_id: str, trial: Trial, reached: float | str | None = None) -> None:
    """End the job of a trial, by default with what its genome is worth."""
    job_id = SearchTrial.get((SearchTrial.search_id == search_id) & (SearchTrial.number == trial.number)).job_id
    end(job_id, quality(trial.genome, trial.epochs, trial.seed) if reached is None else reached)


def measured(search_id: str, why_not: str | None = None) -> None:
    """End the measurement of a search as a trainer would."""
    fields = {"status": "completed" if why_not is None else "failed", "error": why_not}
    with connection.write():
        job_id = Search.get_by_id(search_id).measurement_id
        assert (
            Job.update(finished_at_ms=1, worker=None, **fields)
            .where((Job.id == job_id) & (Job.kind == "measure"))
            .execute()
        )
        if why_not is None:
            searches.keep_latencies(search_id, LATENCIES)


def trials(search_id: str) -> list[Trial]:
    """All that a search has asked for."""
    with connection.read():
        mine = SearchTrial.select().where(SearchTrial.search_id == search_id).order_by(SearchTrial.number)
        return [trial_of(row.trial) for row in mine]


def status(job_id: str) -> tuple[str, str | None]:
    """Of a job, and its error."""
    with connection.read():
        job = Job.get_by_id(job_id)
        return job.status, job.error


def last_training(search_id: str) -> str | None:
    """The training with the best hyper-parameters, once it is ordered."""
    with connection.read():
        return Search.get_by_id(search_id).final_id


def straight(seed: int, **fields: Any) -> tuple[list[Trial], Outcome]:
    """The same search without rows."""
    ga = SearchSpec(**({"population_size": 6, "generations": 4, "finalists": 2} | fields))
    search = journal.start(Order(spec=ga, genes=genes_of(ga), epochs=EPOCHS, seed=seed))
    while (trial := search.ask()) is not None:
        reached = quality(trial.genome, trial.epochs, trial.seed)
        latency = (LATENCIES.of(trial.genome),) if ga.objectives == BOTH else ()
        result = Result(reason=reached) if isinstance(reached, str) else Result(values=(reached, *latency))
        search.tell(trial.number, result)
    return search.trials, search.outcome()
