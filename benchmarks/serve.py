"""`make bench-serve`: our predictions beside those of other servers, on one machine, in one run, in one table.

`python -m benchmarks.serve NAME ...` makes some of the sections, without names all of them; `--quick` compares with
FastAPI and LitServe only, has the platform decide about the trained model alone, and shortens the rest. A goal that is
missed makes the command fail, unless `docs/KNOWN_GAPS.md` has a heading with the figure's name.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import holding, limit, models, subjects
from benchmarks.ours import DECIDE, DECIDED, DEFAULT, QUICK_DECIDE, VARIANTS, Ours, Variant
from benchmarks.peers import servers
from benchmarks.peers.servers import PEERS, Absent, Door, Peer
from benchmarks.run import Figure, show
from benchmarks.subjects import LARGE, NULL, SMALL, TRAINED, Subject

CLIENTS = 100
WARM_UP_S = 2
SECONDS = {NULL: 8, SMALL: 8, LARGE: 20, TRAINED: 12}
QUICK_SECONDS = {NULL: 3, SMALL: 4, LARGE: 8, TRAINED: 5}
LIMIT_S = 3.0
ROUNDS, QUICK_ROUNDS = 3, 2
QUICK = ("FastAPI", "LitServe")
TIMEOUT_S = 60
"""Of a request of the load: a server that has 6 answers a second for 100 clients needs 17."""
CHECKED, CHECKERS = 16, 4
SET_UP_RIGHT = 0.9
"""A peer that reaches less than so much of the share of the limit it is known for may be set up wrong."""
AHEAD = {SMALL: 1.3, LARGE: 1.15}
DECIDED_AHEAD = {TRAINED: 2.5}
OF_LIMIT = {SMALL: 0.9, LARGE: 0.95}
"""Goals, by model."""
NO_INT8 = "INT8 is out: its weights are drawn by chance, so nothing tells what it would cost"

console = Console(highlight=False)


class Cell(NamedTuple):
    """What one server did with one model in one round."""

    rate: float
    """Requests a second."""
    cpu_ms: float
    """Processor time a request, of everything the server consists of."""
    errors: int = 0
    right: int = 0
    checked: int = 0
    generator_cores: float = 0.0
    p99_ms: float = 0.0

    @property
    def told(self) -> str:
        """In words."""
        pace = f"{self.rate:,.1f}/s, {self.cpu_ms:.2f} ms of CPU each"
        return f"{pace}, {self.errors} errors, {self.right} of {self.checked} right" if self.checked else pace


class Contender(NamedTuple):
    """A row of the table."""

    name: str
    run: Callable[[Subject, int], Cell]
    """Measures it for so many seconds."""
    peer: Peer | None = None
    ours: Variant | None = None

    @property
    def is_limit(self) -> bool:
        """Whether it is no server at all."""
        return self.peer is None and self.ours is None


Measured = dict[tuple[str, str], list[Cell]]
"""By contender and model, a cell a round."""
Remarks = dict[tuple[str, str], str]
"""By contender and model."""


def main() -> None:
    """Make the sections that were named; exit code 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.serve", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="NAME", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _end)
    figures: list[Figure] = []
    last: list[str] = []
    try:
        for name in given.sections or SECTIONS:
            console.print(f"[bold]{name}[/]: {SECTIONS[name].__doc__}", soft_wrap=True)
            # A platform of its own: the models that another section left would be in its memory, and in its figures.
            with tempfile.TemporaryDirectory(prefix=f"cvp-serve-{name}-") as folder:
                ours = Ours(Path(folder), QUICK_DECIDE if given.quick else DECIDE)
                found, lines = SECTIONS[name](ours, given.quick)
            figures += found
            last += lines
    finally:  # also what was found before something failed
        met = show(figures)
        print("\n".join(last))
    sys.exit(0 if met else 1)


def _end(number: int, _: FrameType | None) -> None:
    """Leave through every `finally`, so that nothing that was started stays."""
    raise SystemExit(128 + number)


# --- throughput -------------------------------------------------------------------------------------------------------


def throughput(ours: Ours, quick: bool) -> tuple[list[Figure], list[str]]:
    """Requests a second from 100 keep-alive clients: every server and the bare loop, rounds interleaved."""
    measured: Measured = {}
    absent: Remarks = {}
    given = [subjects.subject(name) for name in SECONDS]
    rows = list(contenders(ours, quick, absent, given))
    try:
        _rounds(rows, given, quick, measured, absent)
    finally:  # interrupted, it shows what there is
        judged = [
            Judged(subject.name, [row for row in rows if _measured_with(row, subject, quick)], measured)
            for subject in given
        ]
        for each in judged:
            _table(each, absent | ours.remarks)
    last = [f"ratio to best peer, {each.model}: {_number(each.ahead(each.default))}" for each in judged]
    last += [
        f"ratio to best peer, {each.model}, as decided: {_number(each.ahead(each.decided))}"
        for each in judged
        if each.decided and each.model in DECIDED_AHEAD
    ]
    return [figure for each in judged for figure in each.figures()], last


def _rounds(
    rows: Sequence[Contender], given: Sequence[Subject], quick: bool, measured: Measured, absent: Remarks
) -> None:
    """Every row with every model, once a round, in an order drawn anew each time."""
    draw = random.Random(0)
    for turn in range(QUICK_ROUNDS if quick else ROUNDS):
        for subject in given:
            console.print(f"  round {turn + 1}, {subject.name}", style="dim")
            for row in draw.sample(rows, len(rows)):
                # Where time is short, twice is for what may lie close together.
                once = quick and (row.is_limit or subject.name in DECIDED_AHEAD)
                if (once and turn) or (row.name, subject.name) in absent or not _measured_with(row, subject, quick):
                    continue
                try:
                    cell = row.run(subject, (QUICK_SECONDS if quick else SECONDS)[subject.name])
                except Absent as reason:
                    absent[row.name, subject.name] = str(reason)
                    _tell(row, f"not measured: {reason}")
                else:
                    measured.setdefault((row.name, subject.name), []).append(cell)
                    _tell(row, cell.told)


def _measured_with(row: Contender, subject: Subject, quick: bool) -> bool:
    """The null model can be served in one way only; where time is short, only what has a goal is decided."""
    if row.ours in (None, DEFAULT):
        return True
    return subject.name in DECIDED_AHEAD if quick else subject.name != NULL


def _tell(row: Contender, what: str) -> None:
    console.print(f"    {row.name}: {what} (load {os.getloadavg()[0]:.1f})", style="dim", soft_wrap=True)


def contenders(ours: Ours, quick: bool, absent: Remarks, given: Sequence[Subject]) -> Iterator[Contender]:
    """The rows; what cannot be had is said in `absent`."""
    for loop in limit.LOOPS:
        yield Contender(loop.name, _looping(loop))
    for variant in (DEFAULT, DECIDED) if quick else VARIANTS:
        yield Contender(variant.name, _serving(functools.partial(ours.running, variant=variant)), ours=variant)
    for peer in PEERS:
        if quick and peer.name not in QUICK:
            continue
        try:
            servers.install(peer)
        except Absent as reason:
            absent.update({(peer.name, subject.name): str(reason) for subject in given})
        yield Contender(peer.name, _serving(functools.partial(servers.running, peer)), peer=peer)


def _looping(loop: limit.Loop) -> Callable[[Subject, int], Cell]:
    def run(subject: Subject, _: int) -> Cell:
        pace = limit.pace(loop, subject.path, subject.bodies[:CHECKED], LIMIT_S)
        return Cell(pace.per_s, pace.cpu_ms)

    return run


def _serving(running: Callable[[Subject], AbstractContextManager[Door]]) -> Callable[[Subject, int], Cell]:
    """Starts it, warms it up, checks replies, loads it, checks again."""

    def run(subject: Subject, seconds: int) -> Cell:
        with running(subject) as door:
            _load(door, subject, WARM_UP_S)
            right = _right(door, subject)  # that they come back means that the warm-up has left the queue
            before_s = servers.processor_s(door.processes())
            load = _load(door, subject, seconds)
            cpu_ms = 1000 * (servers.processor_s(door.processes()) - before_s) / max(1, load.requests)
            right += _right(door, subject)
        return Cell(load.requests_per_s, cpu_ms, load.errors, right, 2 * CHECKED, load.cores, load.p99_ms)

    return run


def _load(door: Door, subject: Subject, seconds: int) -> models.Load:
    requests = [door.request(body) for body in subject.bodies]
    return models.wrk(
        door.address,
        [requests[0].target],
        headers=requests[0].headers,
        bodies=[request.body for request in requests],
        clients=CLIENTS,
        seconds=seconds,
        timeout_s=TIMEOUT_S,
    )


def _right(door: Door, subject: Subject) -> int:
    """How many of the first `CHECKED` bodies are answered right."""

    def ask(number: int) -> bool:
        request = door.request(subject.bodies[number])
        reply = httpx.post(
            door.address + request.target, content=request.body, headers=request.headers, timeout=TIMEOUT_S
        )
        return reply.is_success and subject.right(
            number, door.answer(reply.content), gated=door.gated, inside=door.inside
        )

    with ThreadPoolExecutor(CHECKERS) as checkers:
        return sum(checkers.map(ask, range(CHECKED)))


class Judged:
    """The rows of one model, compared."""

    def __init__(self, model: str, rows: Sequence[Contender], measured: Measured) -> None:
        self.model = model
        self.rows = rows
        self._cells = {row.name: measured.get((row.name, model), []) for row in rows}
        self.default, *_ = [row for row in rows if row.ours]
        self.decided = next((row for row in rows if row.ours == DECIDED), None)
        """What a benchmark of the platform chose."""

    def cells(self, row: Contender) -> list[Cell]:
        """Of its rounds."""
        return self._cells[row.name]

    def rate(self, row: Contender) -> float | None:
        """Its median."""
        cells = self.cells(row)
        return statistics.median(cell.rate for cell in cells) if cells else None

    @property
    def limit(self) -> float:
        """The fastest bare loop in FP32."""
        return max(self.rate(row) or 0.0 for row in self.rows if row.is_limit)

    def share(self, row: Contender) -> float | None:
        """Of the limit that the cores leave which the load generator did not use."""
        cells, cores = self.cells(row), os.cpu_count() or 1
        if not cells or not self.limit:
            return None
        left = 1 - statistics.median(cell.generator_cores for cell in cells) / cores
        return statistics.median(cell.rate for cell in cells) / (self.limit * left)

    def doubts(self, row: Contender) -> str:
        """What speaks against the figure of a peer; empty where nothing does."""
        assert row.peer is not None
        rate, known = self.rate(row), row.peer.share.get(self.model)
        if rate is None:
            return "not measured"
        if failed := self._failed(row):
            return f"does not count: {failed} errors or wrong replies"
        plain = next(self.rate(other) for other in self.rows if other.name == limit.LOOPS[0].name)
        if known is None or plain is None or rate >= SET_UP_RIGHT * known * plain:
            return ""
        return f"set up wrong? {rate / plain:.2f} of the limit, known for {known:.2f}"

    def best(self) -> Contender | None:
        """The fastest peer that answers right. One below its share counts: to leave it out could only flatter us."""
        there = [row for row in self.rows if row.peer and self.cells(row) and not self._failed(row)]
        return max(there, key=lambda row: self.rate(row) or 0.0, default=None)

    def _failed(self, row: Contender) -> int:
        return sum(cell.errors + cell.checked - cell.right for cell in self.cells(row))

    def ahead(self, row: Contender, of: Contender | None = None) -> float | None:
        """How many times as fast as the best peer, or another: the median over the rounds."""
        of = of or self.best()
        if of is None:
            return None
        pairs = zip(self.cells(row), self.cells(of), strict=False)
        ratios = [mine.rate / theirs.rate for mine, theirs in pairs if theirs.rate]
        return statistics.median(ratios) if ratios else None

    def figures(self) -> list[Figure]:
        """What the issue of serving asks for."""
        found = self._of_null() if self.model == NULL else self._of_network()
        served = [row for row in self.rows if row.ours]
        wrong = sum(self._failed(row) for row in served)
        checked = sum(cell.checked for row in served for cell in self.cells(row))
        note = f"of ours; {checked} replies were checked"
        return [*found, Figure(name=f"{self.model}, errors and wrong replies", value=wrong, unit="", goal=0, note=note)]

    def _of_null(self) -> Iterator[Figure]:
        for row in self.rows:
            if row.peer and row.name in ("FastAPI", "mosec"):
                ratio = _ratio(f"null model, times {row.name}", self.ahead(self.default, row), 1.0, "")
                yield msgspec.structs.replace(ratio, missing=not self.cells(self.default))

    def _of_network(self) -> Iterator[Figure]:
        best = self.best()
        against = "" if best is None else f"against {best.name}"
        name = f"{self.model}, FP32, times the best peer"
        yield _ratio(name, self.ahead(self.default), AHEAD.get(self.model), against)
        if self.decided:
            goal = DECIDED_AHEAD.get(self.model)
            name = f"{self.model}, as decided, times the best peer"
            yield _ratio(name, self.ahead(self.decided), goal, against if goal else NO_INT8)
        shares = {row.name: self.share(row) or 0.0 for row in self.rows if row.ours and row.ours != DECIDED}
        fastest = max(shares, key=lambda name: shares[name])
        name = f"{self.model}, FP32, share of the limit"
        yield _ratio(name, shares[fastest], OF_LIMIT.get(self.model), fastest)


def _ratio(name: str, value: float | None, goal: float | None, note: str) -> Figure:
    return Figure(name=name, value=value, unit="", goal=goal, at_most=False, note=note)


def _table(judged: Judged, remarks: Remarks) -> None:
    """Everything that was seen of one model."""
    table = Table(title=f"{judged.model}, {CLIENTS} clients, {os.cpu_count()} cores, {time.strftime('%F %H:%M')}")
    for heading in (
        "",
        "requests/s",
        "lowest",
        "highest",
        "CPU ms each",
        "of the limit",
        "P99 ms",
        "generator's cores",
        "errors",
    ):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_column("right")
    table.add_column("remarks")
    for row in sorted(judged.rows, key=lambda row: -(judged.rate(row) or 0.0)):
        table.add_row(*_columns(judged, row, remarks.get((row.name, judged.model), "")))
    Console(width=170).print(table)


def _columns(judged: Judged, row: Contender, remark: str) -> list[str]:
    cells = judged.cells(row)
    if not cells:
        return [row.name, "not measured", *[""] * 8, remark]
    rates = [cell.rate for cell in cells]
    cpu_ms = statistics.median(cell.cpu_ms for cell in cells)
    figures = [row.name, *(f"{value:,.1f}" for value in (statistics.median(rates), min(rates), max(rates)))]
    figures.append(f"{cpu_ms:.2f}")
    if row.is_limit:
        return [*figures, f"{statistics.median(rates) / judged.limit:.2f}", *[""] * 5]
    if row.peer:
        remark = judged.doubts(row)
    return [
        *figures,
        _number(judged.share(row)),
        f"{statistics.median(cell.p99_ms for cell in cells):.0f}",
        f"{statistics.median(cell.generator_cores for cell in cells):.2f}",
        str(sum(cell.errors for cell in cells)),
        f"{sum(cell.right for cell in cells)} of {sum(cell.checked for cell in cells)}",
        remark,
    ]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


Section = Callable[[Ours, bool], tuple[list[Figure], list[str]]]

SECTIONS: dict[str, Section] = {
    "throughput": throughput,
    **holding.SECTIONS,
}


if __name__ == "__main__":
    main()
