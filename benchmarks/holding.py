"""How our service holds up: latency, arrivals by chance, whose reply it is, overload, kills, loading, many models."""

from __future__ import annotations

import io
import math
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks import clients, limit, subjects
from benchmarks.clients import Load, Reply
from benchmarks.ours import Ours
from benchmarks.peers.model import NULL_SHAPE
from benchmarks.peers.servers import Door
from benchmarks.run import Figure, Platform
from benchmarks.subjects import NULL, SMALL, Subject

USERS = 100
PEAK_S, QUICK_PEAK_S = 8, 4
CALLS, QUICK_CALLS, TURN = 1000, 400, 20
"""Call by call each would find the caches full of what the other left there, as neither does that runs for itself."""
ADDED_MS, ADDED_P99_MS = 0.8, 2.5
POISSON_SHARE, POISSON_P99_MS = 0.5, 50
POISSON_S, QUICK_POISSON_S = 60, 10
REQUESTS, QUICK_REQUESTS, DIFFERENT = 100_000, 10_000, 1000
OVERLOAD, OVERLOAD_CLIENTS = 2.0, 2000
OVERLOAD_S, QUICK_OVERLOAD_S = 60, 15
GOODPUT, REFUSED_MS, NORMAL_S = 0.9, 50, 5
REFUSED = (429, 503)
PROBES, AS_USUAL = 10, 3.0
"""Service is back to normal with the first of ten answers in a row that take at most three times as long as before."""
KILL_EVERY_S, KILLING_S, QUICK_KILLING_S = 10.0, 300, 30
KILLED_RIGHT = 0.9999
CYCLES, QUICK_CYCLES, CYCLES_WITHIN = 200, 12, 0.05
LRU_MODELS, LRU_FIT, LRU_S, LRU_RATE, LRU_ORDER = 10, 4, 60, 50.0, 500
LRU_SETTING = "INFERENCE_MEMORY_MB"
MB = 2**20

Found = tuple[list[Figure], list[str]]


def capacity(door: Door, subject: Subject, quick: bool) -> float:
    """Requests a second from 100 clients that send again as soon as they are answered."""
    return _per_s(clients.closed(door, subject.bodies, clients=USERS, seconds=QUICK_PEAK_S if quick else PEAK_S))


def _per_s(load: Load) -> float:
    return len(load.answered) / load.seconds


def _right(subject: Subject, door: Door, reply: Reply) -> bool:
    return reply.status == clients.OK and subject.right(
        reply.number, door.answer(reply.content), gated=door.gated, inside=door.inside
    )


# --- one client -------------------------------------------------------------------------------------------------------


def latency(ours: Ours, quick: bool) -> Found:
    """What one client that asks again and again waits longer than the bare loop takes, in turns of twenty calls."""
    subject = subjects.subject(SMALL, 8)
    bare_model = limit.model(subject.path, "onnxruntime")
    body = subject.bodies[0]
    bare: list[float] = []
    served: list[float] = []
    with ours.running(subject) as door, closing(clients.Single(door, body)) as client:
        for number in range(-1, (QUICK_CALLS if quick else CALLS) // TURN):
            took = (
                [_timed(client.ask) for _ in range(TURN)],
                [_timed(lambda: bare_model.answer(body)) for _ in range(TURN)],
            )
            if number >= 0:  # the first turn warms up
                served += took[0]
                bare += took[1]
    median, p99 = statistics.median(served), statistics.quantiles(served, n=100)[98]
    bare_median, bare_p99 = statistics.median(bare), statistics.quantiles(bare, n=100)[98]
    note = f"served {median:.2f}, bare {bare_median:.2f} ms; P99 {p99:.2f}, {bare_p99:.2f} ms"
    return [
        Figure(name="added latency, median", value=median - bare_median, unit="ms", goal=ADDED_MS, note=note),
        Figure(name="added latency, P99", value=p99 - bare_p99, unit="ms", goal=ADDED_P99_MS),
    ], []


def _timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    began_s = time.perf_counter()
    call()
    return (time.perf_counter() - began_s) * 1000


# --- arrivals by chance -----------------------------------------------------------------------------------------------


def poisson(ours: Ours, quick: bool) -> Found:
    """Requests at random moments, half as many as there could be; each wait counts from the scheduled moment."""
    subject = subjects.subject(SMALL)
    with ours.running(subject) as door:
        capacity(door, subject, True)  # warms up
        peak = capacity(door, subject, quick)
        seconds = QUICK_POISSON_S if quick else POISSON_S
        load = clients.scheduled(door, subject.bodies, clients=USERS, rate=POISSON_SHARE * peak, seconds=seconds)
    waits = [reply.waited_ms for reply in load.answered]
    wrong = sum(not _right(subject, door, reply) for reply in load.replies)
    name = f"{USERS} users, Poisson, {POISSON_SHARE:.0%} of {peak:.0f}/s"
    note = f"P50 {statistics.median(waits):.1f} ms of {len(waits)}; the clients used {load.cores:.2f} cores"
    p99 = statistics.quantiles(waits, n=100)[98]
    return [
        Figure(name=f"{name}, P99", value=p99, unit="ms", goal=POISSON_P99_MS, note=note),
        Figure(name="Poisson, errors and wrong replies", value=wrong, unit=f"of {len(load.replies)}", goal=0),
    ], []


# --- whose reply ------------------------------------------------------------------------------------------------------


def content(ours: Ours, quick: bool) -> Found:
    """Requests with a thousand different images: every reply belongs to its request."""
    given = subjects.subject(NULL, DIFFERENT)
    pictures = given._replace(bodies=[_picture(body) for body in given.bodies])
    total = QUICK_REQUESTS if quick else REQUESTS
    with ours.pictures(pictures) as door:
        load = clients.closed(door, pictures.bodies, clients=USERS, requests=total)
    wrong = sum(not _right(pictures, door, reply) for reply in load.replies)
    failed = total - len(load.answered)
    note = f"{failed} failed; {_per_s(load):.0f}/s, the clients used {load.cores:.2f} cores"
    name = f"{total:,} requests of {DIFFERENT:,} images, wrong"
    return [Figure(name=name, value=wrong, unit="replies", goal=0, note=note)], []


def _picture(body: bytes) -> bytes:
    """The pixels of the null model as a PNG."""
    planes = np.frombuffer(body, np.uint8).reshape(NULL_SHAPE)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


# --- too much ---------------------------------------------------------------------------------------------------------


def overload(ours: Ours, quick: bool) -> Found:
    """Twice as many requests as can be answered: how many still are, how fast the rest is refused, and afterwards."""
    subject = subjects.subject(SMALL)
    seconds = QUICK_OVERLOAD_S if quick else OVERLOAD_S
    with ours.running(subject) as door:
        capacity(door, subject, True)
        usual_ms = statistics.median(_probe(door, subject) for _ in range(PROBES))
        peak = capacity(door, subject, quick)
        rate = OVERLOAD * peak
        load = clients.scheduled(door, subject.bodies, clients=OVERLOAD_CLIENTS, rate=rate, seconds=seconds)
        drained_s = load.seconds - seconds
        normal_s = drained_s + _until_normal(door, subject, AS_USUAL * usual_ms)
    start_s = min(reply.due_s for reply in load.replies)
    good = sum(reply.done_s <= start_s + seconds for reply in load.answered) / seconds
    refused = sorted(reply.answered_ms for reply in load.replies if reply.status in REFUSED)
    other = sum(reply.status not in (clients.OK, *REFUSED) for reply in load.replies)
    late = statistics.quantiles([1000 * (reply.sent_s - reply.due_s) for reply in load.replies], n=100)[98]
    slowest = refused[int(0.99 * len(refused))] if refused else None
    note = f"{good:.0f} of {peak:.0f}/s; sent at most {late:.0f} ms late (P99); the clients used {load.cores:.2f} cores"
    return [
        Figure(name="overload, goodput", value=good / peak, unit="of the peak", goal=GOODPUT, at_most=False, note=note),
        Figure(
            name="overload, refusals",
            value=slowest,
            unit="ms (P99)",
            goal=REFUSED_MS,
            note=f"{len(refused)} of {len(load.replies)}",
        ),
        Figure(name="overload, neither answered nor refused", value=other, unit="requests", goal=0),
        Figure(name="overload, back to normal", value=normal_s, unit="s", goal=NORMAL_S),
    ], []


def _probe(door: Door, subject: Subject) -> float:
    """Milliseconds of a request alone; infinite where it is not answered."""
    (reply,) = clients.closed(door, subject.bodies[:1], clients=1, requests=1).replies
    return reply.answered_ms if reply.status == clients.OK else float("inf")


def _until_normal(door: Door, subject: Subject, most_ms: float) -> float:
    """Seconds until the first of `PROBES` answers in a row that take no longer."""
    began_s, since_s, row = time.monotonic(), 0.0, 0
    while row < PROBES and since_s < 60:
        before_s = time.monotonic() - began_s
        row = row + 1 if _probe(door, subject) <= most_ms else 0
        since_s = before_s if row <= 1 else since_s
    return since_s


# --- kills ------------------------------------------------------------------------------------------------------------


def kill(ours: Ours, quick: bool) -> Found:
    """An inference process is killed every ten seconds under load: how many requests are still answered right."""
    subject = subjects.subject(SMALL)
    seconds = QUICK_KILLING_S if quick else KILLING_S
    with ours.up() as platform:
        door = ours.door(platform, subject)
        capacity(door, subject, True)
        over = threading.Event()
        killed: list[int] = []
        killer = threading.Thread(target=_keep_killing, args=(platform, over, killed))
        killer.start()
        try:
            load = clients.closed(door, subject.bodies, clients=USERS, seconds=seconds)
        finally:
            over.set()
            killer.join()
    right = sum(_right(subject, door, reply) for reply in load.replies)
    missed: dict[int, int] = {}
    for reply in load.replies:
        if not _right(subject, door, reply):
            missed[reply.status] = missed.get(reply.status, 0) + 1
    note = f"{len(killed)} killed in {seconds} s; {right} of {len(load.replies)}, others by status: {missed or 'none'}"
    share = right / len(load.replies)
    name = "kills, answered right"
    return [Figure(name=name, value=share, unit="", goal=KILLED_RIGHT, at_most=False, note=note)], []


def _keep_killing(platform: Platform, over: threading.Event, killed: list[int]) -> None:
    draw = random.Random(0)
    while not over.wait(KILL_EVERY_S):
        if alive := platform.processes().get("inferencer", []):
            victim = draw.choice(alive)
            victim.kill()
            killed.append(victim.pid)


# --- loading and unloading --------------------------------------------------------------------------------------------


def cycles(ours: Ours, quick: bool) -> Found:
    """A model is uploaded, loaded by predictions and deleted, again and again: what the inference processes keep."""
    subject = subjects.subject(SMALL, 8)
    held: list[float] = []
    total = QUICK_CYCLES if quick else CYCLES
    with ours.up() as platform:
        for number in range(total):
            door, forget = ours.passing(platform, subject, f"cycle {number}")
            load = clients.closed(door, subject.bodies, clients=8, requests=32)
            if len(load.answered) < len(load.replies):
                raise SystemExit(f"cycle {number}: {load.replies[0].content.decode()}")
            forget()
            held.append(_settled_mb(platform))
    first, last = statistics.median(held[1:6]), statistics.median(held[-5:])
    note = f"{first:.0f} MB after the first, {last:.0f} MB after the last of {total}, private memory of the processes"
    name = "load and unload, growth"
    return [Figure(name=name, value=last / first - 1, unit="of the first", goal=CYCLES_WITHIN, note=note)], []


def _settled_mb(platform: Platform) -> float:
    """Private memory of the inference processes, the least of a second: unloading follows the deletion."""
    found = []
    for _ in range(5):
        time.sleep(0.2)
        found.append(sum(_private(process) for process in platform.processes().get("inferencer", [])) / MB)
    return min(found)


def _private(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)


# --- more models than fit ---------------------------------------------------------------------------------------------


def lru(ours: Ours, quick: bool) -> Found:
    """Ten models where four fit, some asked for much more often than others."""
    subject = subjects.subject(SMALL, 8)
    with ours.up() as platform:
        capacity(ours.door(platform, subject), subject, True)
        health = platform.http.get("/inference/health").json()
    each_mb = max(model["memory_mb"] / len(model["loaded_in"]) for model in health["models"])
    fit = max(LRU_FIT, health["workers"]["total"])
    limit_mb = str(math.ceil((fit + 0.5) * each_mb))
    with tempfile.TemporaryDirectory(prefix="cvp-lru-") as folder:
        crowded = Ours(Path(folder), **{LRU_SETTING: limit_mb})
        load, memory = _crowded(crowded, subject, LRU_S // 4 if quick else LRU_S)
    waits = sorted(reply.waited_ms for reply in load.answered)
    note = (
        f"of {len(load.replies)}, {LRU_SETTING}={limit_mb}; P50 {statistics.median(waits):.0f}, "
        f"P99 {waits[int(0.99 * len(waits))]:.0f}, longest {waits[-1]:.0f} ms"
    )
    if not memory["unloads"]:
        raise SystemExit(f"lru: all {LRU_MODELS} models fit into {limit_mb} MB, so none had to make room")
    hits = 1 - memory["cold_requests"] / len(load.replies)
    reload_ms = 1000 * memory["load_s"] / memory["loads"]
    failed = len(load.replies) - len(load.answered)
    name = f"{LRU_MODELS} models, {fit} fit, late or failed"
    return [
        Figure(name=name, value=failed, unit="requests", goal=0, note=note),
        Figure(name="many models, requests whose model was in memory", value=hits, unit=""),
        Figure(name="many models, a load", value=reload_ms, unit="ms", note=f"mean of {memory['loads']}"),
        Figure(name="many models, memory they take", value=memory["used_mb"], unit="MB", goal=memory["limit_mb"]),
    ], []


def _crowded(ours: Ours, subject: Subject, seconds: int) -> tuple[Load, dict[str, float]]:
    """Requests for many models, the first most often: as words are in a language (Zipf); and what memory was used."""
    draw = random.Random(0)
    with ours.up() as platform:
        doors = [ours.passing(platform, subject, f"model {number}")[0] for number in range(LRU_MODELS)]
        weights = [1 / (rank + 1) for rank in range(LRU_MODELS)]
        order = draw.choices(doors, weights, k=LRU_ORDER)
        mixed = [door.request(draw.choice(subject.bodies)) for door in order]
        asked = Door(doors[0].address, lambda place: mixed[int(place)], doors[0].answer, doors[0].processes)
        places = [str(place).encode() for place in range(LRU_ORDER)]
        load = clients.scheduled(asked, places, clients=USERS, rate=LRU_RATE, seconds=seconds)
        return load, platform.http.get("/inference/health").json()["memory"]


SECTIONS: dict[str, Callable[[Ours, bool], Found]] = {
    "latency": latency,
    "poisson": poisson,
    "content": content,
    "overload": overload,
    "kill": kill,
    "cycles": cycles,
    "lru": lru,
}
