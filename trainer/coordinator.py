"""The coordinator process: directs the searches. It asks each what to train next, orders that, and tells it what came.

It trains nothing, holds no slot and keeps nothing that is not in the database: a search is its journal, the rows of
`search_trials`. Whatever is killed, the next look makes the search anew from them and goes on with the same trials.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from shared import clock, config, errors, log, process
from shared.artifacts import ArtifactStore
from shared.db import jobs, registry, searches
from shared.db.connection import open_db
from shared.genes import BOTH, Genome, SearchSpec, TrainingOrder, applied, image_sizes
from shared.specs import Lane, MeasureSpec, TrainingSpec, TrialSpec
from shared.trials import Latencies, Order, Outcome, Result, Trial
from shared.wire.client import Publisher
from shared.wire.events import EventFeed
from trainer import journal
from trainer.journal import JournalError
from trainer.search import AT_ONCE, Search

NAME = "coordinator"
LOOK_S = 2.0
"""It looks for itself this often: a lost doorbell costs two seconds."""

RESERVE_BYTES = 500 * 2**20
CHECKPOINTS = 8
"""Times the weights that a trial may need of the disk: weights, the best of them, two moments, and all that once more
while the checkpoint before is still there."""

SEEDS = 2**32
REASON_CHARACTERS = 500
STAGES = {
    "search": "searching",
    "baseline": "searching by chance, to compare",
    "final": "training the finalists again, with other seeds",
}
WAITING = "waiting for the machine to itself, to measure the latency at {count} image sizes"
MEASURING = "measuring the latency at {count} image sizes: {stage}"
LAST = "training with the best hyper-parameters"
DAY_S = 24 * 3600
TOO_LONG = "A search takes at most {days:g} days. Order one of fewer genomes or epochs, or with halving."

logger = logging.getLogger(__name__)


class Announcer(Protocol):
    """What the coordinator needs of a `Publisher`."""

    def publish(self, topic: str, data: dict[str, Any]) -> object:
        """Tell everybody who listens."""
        ...

    def doorbell(self, lane: Lane) -> None:
        """Wake the workers of a lane."""
        ...


class Directed:
    """A search in memory, between two looks."""

    def __init__(self, job: jobs.Claimed) -> None:
        """Make it from its rows.

        Raises:
            JournalError: They are not what a search of this version would have asked for.
        """
        opening, asked = searches.journal(job.id)
        self.latencies: Latencies | None = searches.latencies(searches.found(job.id))
        """None before they are measured, and where they are no objective."""
        order = msgspec.json.decode(job.spec, type=TrainingOrder)
        self.ga = order.ga or SearchSpec()
        self.training = order.without_search()
        self.job_ids = {each.number: each.job_id for each in asked}
        """Of the trials that were ordered."""
        ordered = [msgspec.json.decode(each.trial, type=Trial) for each in asked]
        self.search: Search = journal.resume(msgspec.json.decode(opening, type=Order), searches.told(asked))
        self._take_up(ordered[each] for each in self.job_ids if each not in self.search.results)
        self.cleared: set[int] = set()
        """Trials whose checkpoints were removed."""
        self.short_of_room: set[int] = set()
        """Trials that failed while the disk was full; they are ordered again when there is room."""
        self.body: dict[str, Any] = {}
        """Progress as it was told last."""

    def _take_up(self, at_work: Iterable[Trial]) -> None:
        """Ask for the trials that were ordered already."""
        for trial in at_work:
            if self.search.ask() != trial:
                raise JournalError(f"Trial {trial.number} was ordered, and its search would not ask for it.")

    @property
    def at_work(self) -> list[Trial]:
        """The trials that were ordered and not told yet."""
        return [self.search.trials[each] for each in self.job_ids if each not in self.search.results]

    def order_of(self, trial: Trial) -> TrialSpec:
        """What its job is to do."""
        continues = None if trial.continues is None else self.job_ids[trial.continues]
        training = msgspec.structs.asdict(self.training_with(trial.genome, trial.seed))
        return TrialSpec(**training, until_epoch=trial.epochs, continues=continues)

    def latency_of(self, genome: Genome) -> float | None:
        """Of the network that a genome makes; None where latency is no objective."""
        return None if self.latencies is None else self.latencies.of(genome)

    def training_with(self, genome: dict[str, Any], seed: int) -> TrainingSpec:
        """The training that was ordered, with other hyper-parameters."""
        hyperparams = applied(self.training.hyperparams, genome)
        return msgspec.structs.replace(self.training, hyperparams=hyperparams, seed=seed % SEEDS)


class Coordinator:
    """Directs every open search.

    Args:
        settings: Where trainings leave checkpoints, how many slots there are.
        announcer: Told of progress and of jobs that were ordered.
    """

    def __init__(self, settings: config.Settings, announcer: Announcer) -> None:
        self._folders, self._slots = settings.training, settings.max_gpu_workers
        self._models = ArtifactStore(settings.models)
        self._announcer = announcer
        self._known: dict[str, Directed] = {}

    def look(self) -> None:
        """Take up what was ordered, and bring every search as far as it can be brought now.

        Raises:
            errors.Unavailable: The database cannot be used.
        """
        while (ticket := jobs.peek("search", clock.now_ms())) is not None:
            if jobs.claim("search", NAME, clock.now_ms(), ticket.id) is None:
                break
        at_work = jobs.running("search")
        for each in at_work:
            with log.bound(job_id=each.job.id, **msgspec.structs.asdict(each.job.origin)):
                self._look_at(each)
        for gone in self._known.keys() - {each.job.id for each in at_work}:
            del self._known[gone]

    def _look_at(self, running: jobs.Running) -> None:
        job, known = running.job, self._known.pop(running.job.id, None)
        try:
            if running.cancel:
                self._cancel(job)
            elif clock.now_ms() - running.started_at_ms > 1000 * job.max_runtime_s:
                self._fail(job, TOO_LONG.format(days=job.max_runtime_s / DAY_S))
            else:
                known = known or Directed(job)
                if not self._direct(job, known):
                    self._known[job.id] = known  # after a failure it is made anew instead: its rows are the truth
        except JournalError as error:
            self._fail(job, f"The search cannot go on: {error}")
        except jobs.Fenced:
            logger.warning("the search was ended meanwhile")

    def _direct(self, job: jobs.Claimed, known: Directed) -> bool:
        """One step; returns whether the search has ended."""
        last = searches.last(job.id)
        if last is not None:
            return self._close(job, known, last)
        if known.ga.objectives == BOTH and known.latencies is None:
            return self._measure(job, known)
        self._hear(job, known, self._held_up(known))
        held_up = self._hand_out(job, known)
        if known.search.finished:
            return self._conclude(job, known)
        self._report(job, known, held_up)
        return False

    # --- one step ---------------------------------------------------------------------------------------------------

    def _measure(self, job: jobs.Claimed, known: Directed) -> bool:
        """Have the latencies measured before anything is trained; that they cannot be ends the search, unless there was
        no room on the disk: then they are measured when there is.
        """
        found, held_up = searches.measurement(job.id), self._held_up(known)
        if found is not None and found.status == "completed":
            known.latencies = searches.latencies(searches.found(job.id))
            return self._direct(job, known)
        if found is not None and found.status == "failed" and (held_up is not None or found.no_room):
            if not found.no_room:
                searches.note_no_room(job, found.id, str(held_up))
            found = None
        if found is not None and found.status not in jobs.OPEN:
            why = found.error or "that was cancelled"
            self._fail(job, f"The latency could not be measured, and nothing was trained: {why}")
            return True
        sizes = image_sizes(known.ga.search_space)
        if found is None and held_up is None:
            serves = registry.incumbent(known.training.model_id)
            engine = known.ga.engine or (serves.engine if serves else "onnxruntime")
            spec = MeasureSpec(search_id=job.id, training=known.training, image_sizes=sizes, engine=engine)
            searches.measure(job, spec)
            self._announcer.doorbell("accelerator")
        if found is not None and found.status == "running":
            stage = MEASURING.format(count=len(sizes), stage=found.stage or "starting")
        elif found is None and held_up is not None:
            stage = f"waiting: {held_up}"
        else:
            stage = WAITING.format(count=len(sizes))
        self._tell_progress(job, known, self._progress(job, known) | {"stage": stage})
        return False

    def _hear(self, job: jobs.Claimed, known: Directed, held_up: str | None) -> None:
        """Tell the search of every trial that has ended; not of one that failed while there was no room, which says
        nothing of its hyper-parameters.
        """
        for each in searches.ended(job.id):
            if each.status == "failed" and (held_up is not None or each.no_room):
                known.short_of_room.add(each.number)
                if held_up is None:
                    self._order_again(job, known, each)
                elif not each.no_room:
                    searches.note_no_room(job, each.job_id, held_up)
                continue
            latency_ms = known.latency_of(known.search.trials[each.number].genome)
            result = known.search.tell(each.number, _result(each, latency_ms))
            searches.tell(job, each.number, result, known.search.outcome())
            logger.info("a trial ended", extra={"trial": each.number, "values": result.values, "why": result.reason})
            self._clear(known)

    def _hand_out(self, job: jobs.Claimed, known: Directed) -> str | None:
        """Order what the search asks for; returns what keeps it from that."""
        while (held_up := self._held_up(known)) is None and (trial := known.search.ask()) is not None:
            if trial.number not in known.job_ids:
                placed = msgspec.structs.replace(job, ordered_at_ms=clock.now_ms())  # behind all that waits by now
                latency_ms = known.latency_of(trial.genome)
                job_id = searches.hand_out(placed, trial.number, trial, known.order_of(trial), latency_ms)
                known.job_ids[trial.number] = job_id
                self._announcer.doorbell("accelerator")
        return held_up

    def _order_again(self, job: jobs.Claimed, known: Directed, ended: searches.Ended) -> None:
        """Have a trial go on from the checkpoint of the job that failed."""
        trial = known.search.trials[ended.number]
        spec = msgspec.structs.replace(known.order_of(trial), continues=ended.job_id)
        placed = msgspec.structs.replace(job, ordered_at_ms=clock.now_ms())
        job_id = searches.hand_out_again(placed, trial.number, spec, known.latency_of(trial.genome))
        known.job_ids[trial.number] = job_id
        known.short_of_room.discard(trial.number)
        self._announcer.doorbell("accelerator")

    def _held_up(self, known: Directed) -> str | None:
        """Why no trial should start now."""
        sha256 = registry.model(known.training.model_id).weights_sha256
        path = self._models.path(sha256) if sha256 else None
        weights = path.stat().st_size if path is not None and path.is_file() else 0
        try:
            self._models.check_room(RESERVE_BYTES + CHECKPOINTS * weights)
        except errors.Unavailable as error:
            return error.message
        return None

    def _conclude(self, job: jobs.Claimed, known: Directed) -> bool:
        """Every trial is told: train with the best, or say that there is none."""
        outcome = known.search.outcome()
        self._clear(known)
        if outcome.best is None:
            self._fail(job, outcome.stopped or "No training gave a result.")
            return True
        spec = known.training_with(outcome.best, known.search.seed)
        searches.train_best(job, spec, outcome, known.latency_of(outcome.best))
        self._announcer.doorbell("accelerator")
        self._report(job, known, None)
        return False

    def _close(self, job: jobs.Claimed, known: Directed, last: searches.Step) -> bool:
        """End with the last training, as it ended."""
        if last.status in jobs.OPEN:
            self._report(job, known, None)
            return False
        if last.status == "completed":
            searches.complete(job, last.id)
            self._tell(job, "completed", {})
        else:
            why = last.error or "it was cancelled"
            self._fail(job, f"The training with the best hyper-parameters gave no model: {why}")
        return True

    def _fail(self, job: jobs.Claimed, reason: str) -> None:

        def commit() -> None:
            searches.stop_all(job.id)

        jobs.fail(job, reason, commit)
        logger.warning("a search failed", extra={"reason": reason})
        self._tell(job, "failed", {})

    def _cancel(self, job: jobs.Claimed) -> None:
        stopped = searches.cancel(job)
        logger.info("a search was cancelled", extra={"trials": len(stopped)})
        self._tell(job, "cancelled", {})
        for each in searches.journal(job.id)[1]:
            if each.result is not None:  # a trial that still runs ends with its folder
                shutil.rmtree(self._folders / each.job_id, ignore_errors=True)

    def _clear(self, known: Directed) -> None:
        """Remove the checkpoints that nothing goes on from."""
        kept = known.search.continuable() | {each.continues for each in known.at_work}
        for number in known.search.results.keys() - kept - known.cleared:
            shutil.rmtree(self._folders / known.job_ids[number], ignore_errors=True)
            known.cleared.add(number)

    # --- what is told -----------------------------------------------------------------------------------------------

    def _report(self, job: jobs.Claimed, known: Directed, held_up: str | None) -> None:
        """Store and tell how far the search is, where that has changed."""
        body = self._progress(job, known)
        if held_up is not None and all(trial.number in known.short_of_room for trial in known.at_work):
            body |= {"stage": f"waiting: {held_up}", "eta_s": None}
        elif (ahead := searches.waits_for(job.id)) is not None:
            body |= {"stage": f"waiting for {ahead}", "eta_s": None}
        self._tell_progress(job, known, body)

    def _tell_progress(self, job: jobs.Claimed, known: Directed, body: dict[str, Any]) -> None:
        if body == known.body:
            return
        known.body = body
        jobs.report_progress(job, body)
        self._tell(job, "running", body)

    def _progress(self, job: jobs.Claimed, known: Directed) -> dict[str, Any]:
        search, outcome = known.search, known.search.outcome()
        epochs = known.training.max_epochs
        planned, done = search.epochs_planned() + epochs, search.epochs_done()
        newest = search.trials[-1] if search.trials else None
        each_s = searches.seconds(job.id) / done if done else None
        left = epochs if search.finished else max(planned - done, epochs)
        at_once = min(AT_ONCE, self._slots)
        counted = None if search.finished else search.stage_done()
        return {
            "stage": LAST if search.finished else STAGES[newest.stage if newest else "search"],
            "generation": 1 + max((trial.generation for trial in search.trials), default=0),
            "generations": known.ga.generations,
            "evaluations": search.tried,
            "max_evaluations": known.ga.evaluations,
            "best": dict(zip(known.ga.objectives, best, strict=True)) if (best := _newest(outcome)) else None,
            "failed": outcome.failed,
            "fraction": round(min(done / planned, 0.999), 4),
            "eta_s": None if each_s is None else round(each_s * left / (1 if search.finished else at_once), 1),
        } | ({} if counted is None else {"done": counted[0], "total": counted[1]})

    def _tell(self, job: jobs.Claimed, status: str, progress: dict[str, Any]) -> None:
        told = {"id": job.id, "kind": job.kind, "status": status, "progress": progress, "request_id": job.request_id}
        self._announcer.publish(f"job.{job.id}", told)


def _newest(outcome: Outcome) -> tuple[float, ...] | None:
    return next((values for values in reversed(outcome.history) if values is not None), None)


def _result(ended: searches.Ended, latency_ms: float | None) -> Result:
    """What came of a trial, whoever is to blame where nothing did."""
    if ended.status == "cancelled":
        return Result(reason="Its training was cancelled.")
    if ended.status != "completed" or ended.result is None:
        return Result(reason=(ended.error or "Its training ended without a result.")[:REASON_CHARACTERS])
    accuracy = ended.result.final_accuracy
    return Result(values=(accuracy,) if latency_ms is None else (accuracy, latency_ms))


def main(settings: config.Settings, stop: process.Stop) -> None:
    """Direct searches until asked to stop. Those that run go on when it is back."""
    open_db(settings.db_file)
    doorbell = EventFeed(settings.events_endpoint, ["doorbell.search"])
    publisher = Publisher(settings.broker_endpoint)
    coordinator = Coordinator(settings, publisher)
    try:
        while not stop:
            try:
                coordinator.look()
            except errors.Unavailable as error:
                logger.error("the database cannot be used", extra={"error": error.message})
            doorbell.wait(LOOK_S, stop.read_fd)
    finally:
        doorbell.close()
        publisher.close()


if __name__ == "__main__":
    process.service(NAME, main)
