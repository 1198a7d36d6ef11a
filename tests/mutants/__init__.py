"""Seeded faults in what must not be wrong: the broker's decisions, the claim of a job, pages, the choice.

Each is one small change that some test has to notice. `make mutants` plants them, one after the other, in a copy of the
project; the ordinary suite holds that each text is still in the code, once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One seeded fault."""

    name: str
    """What the code would do with it."""
    file: str
    original: str
    mutated: str
    killed_by: tuple[str, ...]
    """Test files of which at least one test must fail."""


CORE = ("tests/unit/test_broker_core.py",)
CLAIM = ("tests/unit/test_jobs.py",)
PAGES = ("tests/unit/test_pages.py",)
DECISION = ("tests/unit/test_verdict_decision.py",)
ROUNDS = ("tests/unit/test_verdict_rounds.py",)

MUTANTS = (
    Mutant(
        name="a request that kills its worker while alone is tried for ever",
        file="broker/core.py",
        original="            elif request.alone:\n",
        mutated="            elif False:\n",
        killed_by=CORE,
    ),
    Mutant(
        name="a late answer is sent although its client was told that time is up",
        file="broker/core.py",
        original="        if not request.answered:\n            self._completed",
        mutated="        if True:\n            self._completed",
        killed_by=CORE,
    ),
    Mutant(
        name="an id in use is taken a second time",
        file="broker/core.py",
        original="        if submit.request_id in self._requests:\n",
        mutated="        if submit.request_id == '':\n",
        killed_by=CORE,
    ),
    Mutant(
        name="a worker gets one request more than it has credit for",
        file="broker/roster.py",
        original="len(self.holds) + len(others) >= self.credit",
        mutated="len(self.holds) + len(others) > self.credit",
        killed_by=CORE,
    ),
    Mutant(
        name="a restarted broker forgets what its workers are still at",
        file="broker/core.py",
        original="        worker.strays = set(ready.inflight) - worker.holds.keys()\n",
        mutated="        worker.strays = set()\n",
        killed_by=CORE,
    ),
    Mutant(
        name="what was answered for an earlier broker takes credit for ever",
        file="broker/core.py",
        original="            worker.strays.discard(message.request_id)\n",
        mutated="            pass\n",
        killed_by=CORE,
    ),
    Mutant(
        name="the lane is bounded by count only",
        file="broker/lane.py",
        original=" and self.queued_bytes + size_bytes <= self.limit_bytes",
        mutated="",
        killed_by=CORE,
    ),
    Mutant(
        name="a retry starts its time limit again",
        file="broker/core.py",
        original="        if request.assigned_s is None:\n            request.deadline_s",
        mutated="        if True:\n            request.deadline_s",
        killed_by=CORE,
    ),
    Mutant(
        name="a worker that was given up writes over its successor",
        file="shared/db/jobs.py",
        original='(Job.id == job.id) & (Job.attempt == job.attempt) & (Job.status == "running")',
        mutated='(Job.id == job.id) & (Job.status == "running")',
        killed_by=CLAIM,
    ),
    Mutant(
        name="a claim does not count as an attempt",
        file="shared/db/jobs.py",
        original='status="running", attempt=Job.attempt + 1,',
        mutated='status="running", attempt=Job.attempt,',
        killed_by=CLAIM,
    ),
    Mutant(
        name="a job that kills its workers is never given up",
        file="shared/db/jobs.py",
        original="    if job.attempt >= job.max_attempts:\n",
        mutated="    if job.attempt < 0:\n",
        killed_by=CLAIM,
    ),
    Mutant(
        name="waiting does not raise a job's turn",
        file="shared/db/jobs.py",
        original="job.ordered_at_ms - job.priority * AGEING_MS",
        mutated="-job.priority, job.ordered_at_ms",
        killed_by=CLAIM,
    ),
    Mutant(
        name="a job starts beside an exclusive one",
        file="shared/db/jobs.py",
        original='    if any(job.isolation == "exclusive" for job in running):\n',
        mutated='    if all(job.isolation == "exclusive" for job in running) and not running:\n',
        killed_by=CLAIM,
    ),
    Mutant(
        name="the last row of a page is the first of the next",
        file="shared/db/pages.py",
        original='[self._key < "" if name == _OLDER',
        mutated='[self._key <= "" if name == _OLDER',
        killed_by=PAGES,
    ),
    Mutant(
        name="a row between two pages is lost",
        file="shared/db/pages.py",
        original="    return Page(rows[:limit], rows[limit - 1].id if more else None)\n",
        mutated="    return Page(rows[:limit], rows[limit].id if more else None)\n",
        killed_by=PAGES,
    ),
    Mutant(
        name="what was not measured counts as passed",
        file="shared/verdict/decision.py",
        original="    eligible = [item for item in assessments if item.eligible]\n",
        mutated="    eligible = list(assessments)\n",
        killed_by=DECISION,
    ),
    Mutant(
        name="an unsettled comparison counts as a tie, and the choice is not marked fragile",
        file="shared/verdict/decision.py",
        original='comparison.standing == "unresolved" for comparison in compared',
        mutated='comparison.standing == "nothing" for comparison in compared',
        killed_by=DECISION,
    ),
    Mutant(
        name="the slowest is called the fastest",
        file="shared/verdict/decision.py",
        original="        fastest = item if _leads(contest.metric, item, fastest, rounds) else fastest\n",
        mutated="        fastest = fastest if _leads(contest.metric, item, fastest, rounds) else item\n",
        killed_by=DECISION,
    ),
    Mutant(
        name="one launch that was held up moves a whole comparison",
        file="shared/verdict/rounds.py",
        original="value = math.exp(np.median(logs))",
        mutated="value = math.exp(np.mean(logs))",
        killed_by=ROUNDS,
    ),
    Mutant(
        name="the file's size decides before memory",
        file="shared/verdict/decision.py",
        original="    return (step, item.series.artifact_bytes, *",
        mutated="    return (item.series.artifact_bytes, step, *",
        killed_by=DECISION,
    ),
    Mutant(
        name="latency is compared at the largest batch",
        file="shared/verdict/decision.py",
        original="    batch = min(item.candidate.batch_size for item in timed)\n",
        mutated="    batch = max(item.candidate.batch_size for item in timed)\n",
        killed_by=DECISION,
    ),
)
