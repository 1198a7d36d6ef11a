"""Seeded faults in what must not be wrong: the broker's decisions, the claim of a job, pages, the gate, the choice, and
what serves.

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
ACCURACY = ("tests/unit/test_verdict_accuracy.py",)
GATE = ("tests/unit/test_gate.py",)
SCALES = ("tests/unit/test_decoding.py",)
SERVING = ("tests/unit/test_runtime.py",)
DEPLOYED = ("tests/unit/test_deployments.py",)
RAW = ("tests/unit/test_open_inference.py",)
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
        original="len(self.holds) + others >= self.credit",
        mutated="len(self.holds) + others > self.credit",
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
        name="who comes back at once passes those who wait",
        file="broker/lane.py",
        original="        self._past[caller] = turn\n",
        mutated="        self._past[caller] = 0.0\n",
        killed_by=CORE,
    ),
    Mutant(
        name="shares of the lane are of requests, however many images they have",
        file="broker/lane.py",
        original="        flow.turn += request.images\n",
        mutated="        flow.turn += 1\n",
        killed_by=CORE,
    ),
    Mutant(
        name="time in which nobody waits counts as slowness",
        file="broker/pace.py",
        original="        elif not anybody and self._since_s is not None:\n",
        mutated="        elif False:\n",
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
        original="    return min(items, key=lambda item: max(cost_ratio(",
        mutated="    return max(items, key=lambda item: max(cost_ratio(",
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
    Mutant(
        name="a switch is worth it for one that is ten per cent slower",
        file="shared/verdict/decision.py",
        original="under.key, 1 / (1 - rules.worth))",
        mutated="under.key, 1 - rules.worth)",
        killed_by=DECISION,
    ),
    Mutant(
        name="the active deployment is no reason to stay",
        file="shared/verdict/decision.py",
        original="    if rules.incumbent is None:\n        return Settled(best, pool, [])\n",
        mutated="    if True:\n        return Settled(best, pool, [])\n",
        killed_by=DECISION,
    ),
    Mutant(
        name="any doubt is enough for a switch",
        file="shared/verdict/decision.py",
        original="(switches[item.key].sure or 0.0) >= SURE_OF_IT",
        mutated="(switches[item.key].sure or 0.0) >= 0",
        killed_by=DECISION,
    ),
    Mutant(
        name="a deployment of larger batches is compared with nothing",
        file="shared/verdict/decision.py",
        original='min(active.batch_size, smallest) if objective == "latency" else active.batch_size',
        mutated="active.batch_size",
        killed_by=DECISION,
    ),
    Mutant(
        name="what was activated is not measured",
        file="benchmarker/candidates.py",
        original="    if incumbent is None or not _ordered(incumbent, spec):\n",
        mutated="    if True:\n",
        killed_by=("tests/unit/test_candidates.py",),
    ),
    Mutant(
        name="noise within the margin is a reason to switch",
        file="shared/verdict/decision.py",
        original="max(WORTH_A_SWITCH, 1 - 1 / (1 + self.margin))",
        mutated="WORTH_A_SWITCH",
        killed_by=DECISION,
    ),
    Mutant(
        name="only the smallest of the fastest may be worth a switch",
        file="shared/verdict/decision.py",
        original="    worth_it = [item for item in pool if (",
        mutated="    worth_it = [item for item in [best] if (",
        killed_by=DECISION,
    ),
    Mutant(
        name="the noise floor counts once",
        file="shared/verdict/decision.py",
        original="max(DELTA, 2 * noise.value)",
        mutated="max(DELTA, noise.value)",
        killed_by=DECISION,
    ),
    Mutant(
        name="more images a second cost more",
        file="shared/verdict/decision.py",
        original='    over, under = (item, fastest) if metric == "latency_p95_ms" else (fastest, item)\n',
        mutated='    over, under = (item, fastest) if metric != "latency_p95_ms" else (fastest, item)\n',
        killed_by=DECISION,
    ),
    Mutant(
        name="the better end of an interval passes a limit",
        file="shared/verdict/constraints.py",
        original='    return "pass" if all(kept) else',
        mutated='    return "pass" if any(kept) else',
        killed_by=ACCURACY,
    ),
    Mutant(
        name="a clear loss of accuracy is measured all the same",
        file="shared/verdict/gate.py",
        original='    if judge(constraint, metric) != "fail" or metric.value is None:\n',
        mutated="    if metric.value is not None:\n",
        killed_by=ACCURACY,
    ),
    Mutant(
        name="a drop that may be too large passes",
        file="shared/verdict/gate.py",
        original='    return "pass" if kept == "pass" else "inconclusive"\n',
        mutated='    return "pass"\n',
        killed_by=ACCURACY,
    ),
    Mutant(
        name="images that were won count as lost",
        file="shared/verdict/accuracy.py",
        original="(before & ~after).sum()), int((after & ~before).sum())",
        mutated="(after & ~before).sum()), int((before & ~after).sum())",
        killed_by=ACCURACY,
    ),
    Mutant(
        name="NaN at the largest batch is not seen",
        file="benchmarker/examination.py",
        original="        for batch in self._order.batches:\n",
        mutated="        for batch in self._order.batches[:-1]:\n",
        killed_by=GATE,
    ),
    Mutant(
        name="extreme input is given at the smallest batch alone",
        file="benchmarker/examination.py",
        original="dict.fromkeys((self._order.batches[0], self._order.batches[-1]))",
        mutated="dict.fromkeys((self._order.batches[0],))",
        killed_by=GATE,
    ),
    Mutant(
        name="nobody looks whether calibration has seen the test split",
        file="benchmarker/examination.py",
        original="        self._refuse_overlap(inputs)\n",
        mutated="",
        killed_by=GATE,
    ),
    Mutant(
        name="golden samples are run and not compared",
        file="shared/golden.py",
        original="    if found.max_rel_diff is not None and found.max_rel_diff > most:\n",
        mutated="    if False:\n",
        killed_by=GATE,
    ),
    Mutant(
        name="other answers than at the benchmark serve",
        file="shared/runtime.py",
        original='            raise errors.BadOutput(" ".join(wrong))\n',
        mutated="            return\n",
        killed_by=SERVING,
    ),
    Mutant(
        name="a deployment of another machine counts as its own",
        file="shared/db/deployments.py",
        original="        if row.fingerprint != fingerprint:\n",
        mutated="        if False:\n",
        killed_by=DEPLOYED,
    ),
    Mutant(
        name="a deployment whose file was replaced goes on as if nothing were",
        file="shared/db/deployments.py",
        original="        elif row.file_sha256 is not None and not registry.has_file(row.model_id, row.file_sha256):\n",
        mutated="        elif False:\n",
        killed_by=DEPLOYED,
    ),
    Mutant(
        name="an order that a later one replaced serves after all",
        file="shared/db/deployments.py",
        original='    if row.status != "activating":\n        return False\n',
        mutated='    if row.status == "active":\n        return False\n',
        killed_by=DEPLOYED,
    ),
    Mutant(
        name="golden samples of another machine are taken",
        file="gateway/routes/deployments.py",
        original="    same = measured.system.fingerprint == fingerprint and (",
        mutated="    same = measured.system.fingerprint is not None and (",
        killed_by=DEPLOYED,
    ),
    Mutant(
        name="every binary input is given the first one's bytes",
        file="inferencer/tensors.py",
        original="        yield binary[start:end]\n",
        mutated="        yield binary[: end - start]\n",
        killed_by=RAW,
    ),
    Mutant(
        name="bytes that belong to no input are overlooked",
        file="shared/wire/open_inference.py",
        original="    if said != binary_bytes:\n",
        mutated="    if said > binary_bytes:\n",
        killed_by=RAW,
    ),
    Mutant(
        name="a process whose engine broke for good goes on",
        file="inferencer/doubts.py",
        original="                self._end()\n",
        mutated="                pass\n",
        killed_by=("tests/unit/test_inferencer.py",),
    ),
    Mutant(
        name="a probe waits behind all that wait",
        file="inferencer/batcher.py",
        original="        return len(self._running) + self._reserved < self._at_once\n",
        mutated="        return len(self._running) < self._at_once\n",
        killed_by=("tests/unit/test_batcher.py",),
    ),
    Mutant(
        name="a model that fails probe after probe is loaded again for ever",
        file="inferencer/doubts.py",
        original="        elif in_row > 1:\n",
        mutated="        elif False:\n",
        killed_by=("tests/unit/test_inferencer.py",),
    ),
    Mutant(
        name="a probe makes a model look as if somebody asked for it",
        file="inferencer/sessions.py",
        original="            if asked:\n",
        mutated="            if True:\n",
        killed_by=("tests/unit/test_inferencer.py",),
    ),
    Mutant(
        name="who left keeps a place in the lane",
        file="broker/core.py",
        original=" and self.lane.remove(request):\n",
        mutated=":\n",
        killed_by=CORE,
    ),
    Mutant(
        name="a client's batch of tensors counts as one row",
        file="inferencer/batcher.py",
        original='"raw": self.assign.rows}',
        mutated='"raw": 1}',
        killed_by=RAW,
    ),
    Mutant(
        name="JPEGs are decoded at a part of their size whatever that costs in accuracy",
        file="shared/verdict/decoding.py",
        original="        why_not=problems or wording.ineligible(decoded) or None,\n",
        mutated="        why_not=problems or None,\n",
        killed_by=SCALES,
    ),
    Mutant(
        name="boxes in an image that was decoded at a part of its size are told in that part's pixels",
        file="shared/runtime.py",
        original="sizes.append(picture.size)\n                pre",
        mutated="sizes.append(picture.image.size)\n                pre",
        killed_by=("tests/unit/test_jpeg_scale.py",),
    ),
)
