"""The real broker, real inferencer processes and a client: round trips, deaths and restarts."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import config
from shared.errors import AppError, BadImage, Conflict, PoisonRequest, QueueFull, TooLarge, Unavailable
from shared.process import EXIT_LOCKED, Stop
from shared.wire import client, codec, sockets
from shared.wire.client import BrokerClient, Cancelled, Publisher
from shared.wire.events import AsyncEventFeed, EventFeed, Resync
from shared.wire.messages import Event, Submit
from tests.conftest import eventually

pytestmark = pytest.mark.process


class Farm:
    """The broker and inferencers of one test, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.environ = {**os.environ, "DATA_DIR": str(folder), "LOG_LEVEL": "error"}
        self.settings = config.load({"DATA_DIR": str(folder)})
        self._started: list[subprocess.Popen[bytes]] = []

    def broker(self) -> subprocess.Popen[bytes]:
        return self._start("broker")

    def impatient_broker(self) -> subprocess.Popen[bytes]:
        """One that gives a silent worker up after three seconds."""
        return self._start("tests.process.broker_that")

    def inferencer(self, worker_id: str = "inferencer-0", habit: str = "answers") -> subprocess.Popen[bytes]:
        return self._start("tests.process.inferencer_that", worker_id, habit)

    def client(self) -> BrokerClient:
        return BrokerClient(self.settings.broker_endpoint, "gateway-0")

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait(10)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", *command], env=self.environ)
        self._started.append(process)
        return process


@pytest.fixture
def farm() -> Iterator[Farm]:
    folder = Path(tempfile.mkdtemp(prefix="cvp-"))  # short: socket paths are limited
    farm = Farm(folder)
    farm.settings.make_folders()
    yield farm
    farm.close()
    shutil.rmtree(folder)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that look every 50 ms and lose patience after half a second."""
    monkeypatch.setattr(client, "ASK_EVERY_S", 0.05)
    monkeypatch.setattr(client, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(client, "SILENT_S", 0.5)


def request(request_id: str, model_id: str = "quick", **changes: Any) -> Submit:
    fields = {"form": "images", "queue_ttl_ms": 20_000, "inference_ttl_ms": 20_000} | changes
    return Submit(request_id=request_id, model_id=model_id, **fields)


async def until(check: Callable[[], object], within_s: float = 10.0) -> None:
    end_s = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end_s, f"not within {within_s} s"
        await asyncio.sleep(0.01)


def in_flight(broker: BrokerClient) -> int:
    status, _ = broker.status()
    return status.in_flight if status else 0


def workers(broker: BrokerClient) -> int:
    status, _ = broker.status()
    return len(status.workers) if status else 0


def busy(broker: BrokerClient) -> list[str]:
    status, _ = broker.status()
    return [worker.worker_id for worker in status.workers if worker.busy] if status else []


async def outcome(answer: Coroutine[Any, Any, Any]) -> tuple[AppError | None, float]:
    """The error of a submit, and how long it took."""
    start_s = time.monotonic()
    try:
        await asyncio.wait_for(answer, 20)
    except AppError as error:
        return error, time.monotonic() - start_s
    return None, time.monotonic() - start_s


def test_requests_come_back_with_their_blobs_and_failures_as_their_class(farm):
    farm.broker()
    farm.inferencer()

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            done, blobs = await broker.submit(request("r", queue_ttl_ms=5_000), [b"jpeg", b"png" * 100_000])
            assert (done.request_id, done.engine) == ("r", "inferencer-0")
            assert blobs == [b"jpeg" + b"png" * 100_000]
            with pytest.raises(BadImage, match=r"It is no image\."):
                await broker.submit(request("b", "broken"))

    asyncio.run(scenario())
    mode = (farm.settings.run / "broker.sock").stat().st_mode
    assert oct(mode & 0o777) == oct((farm.settings.run / "events.sock").stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_answer_is_overlooked_under_a_crowd(farm, loop):
    """The descriptor of a zmq socket is edge-triggered: an arrival that a send swallows must not stall its request."""
    farm.broker()
    farm.inferencer()

    async def ask(broker: BrokerClient, user: int) -> None:
        for number in range(20):
            _, [blob] = await broker.submit(request(f"{user}-{number}"), [b"%d-%d" % (user, number)])
            assert blob == b"%d-%d" % (user, number)

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            await asyncio.wait_for(asyncio.gather(*(ask(broker, user) for user in range(50))), 20)

    if loop == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        uvloop.run(scenario())
    else:
        asyncio.run(scenario())


def test_a_loud_caller_is_refused_at_once_and_a_quiet_one_served(farm, watchful):
    """Eight a second are answered, and one caller wants hundreds."""
    farm.broker()
    farm.inferencer("inferencer-0")

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))

            def ask(caller: str, number: int) -> asyncio.Task[tuple[AppError | None, float]]:
                return asyncio.create_task(outcome(broker.submit(request(f"{caller}{number}", "slow", caller=caller))))

            asked = [ask("loud", number) for number in range(40)]
            await until(lambda: sum(answer.done() for answer in asked) > 12)
            asked += [ask("loud", number) for number in range(40, 240)]
            await until(lambda: sum(answer.done() for answer in asked) > 60)
            refused = [error for error, _ in (answer.result() for answer in asked if answer.done()) if error]
            assert len(refused) > 40
            assert {type(error) for error in refused} == {QueueFull}
            assert all(5 < error.retry_after_s < 60 for error in refused)
            with pytest.raises(QueueFull), broker.entering("loud"):
                pass
            with broker.entering("quiet"):
                error, took_s = await ask("quiet", 0)
            assert (error, took_s < 5) == (None, True)
            assert sum(answer.done() for answer in asked) < 200, "the loud one still waits"
            for answer in asked:
                answer.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(scenario())


async def six_wait(broker: BrokerClient) -> dict[str, asyncio.Task[Any]]:
    """Ten requests by id, of which an inferencer that answers nobody holds four."""
    names = [f"r{number}" for number in range(10)]
    asked = {name: asyncio.create_task(broker.submit(request(name))) for name in names}
    await until(lambda: (status := broker.status()[0]) and status.depth == 6)
    return asked


def test_what_is_cancelled_ends_at_once_and_leaves_the_lane(farm, watchful):
    farm.broker()
    farm.inferencer(habit="holds")

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            asked = await six_wait(broker)
            for name in (*asked, *asked, "never heard of"):
                broker.cancel(name)
            results = await asyncio.gather(*asked.values(), return_exceptions=True)
            assert {type(result) for result in results} == {Cancelled}
            await until(lambda: broker.status()[0].depth == 0)
            status, _ = broker.status()
            assert (status.cancelled, status.in_flight) == (6, 4), "what a worker has, it goes on with"

    asyncio.run(scenario())


def test_what_is_cancelled_in_the_turn_it_was_submitted_never_reaches_the_broker(farm, watchful):
    farm.broker()
    farm.inferencer(habit="holds")

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            names = [f"r{number}" for number in range(10)]
            asked = [asyncio.create_task(broker.submit(request(name))) for name in names]
            await asyncio.sleep(0)  # each has been begun, and none has left
            for name in names:
                broker.cancel(name)
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(result) for result in results} == {Cancelled}
            asked = [asyncio.create_task(broker.submit(request("later")))]
            await until(lambda: in_flight(broker))
            assert (broker.status()[0].depth, in_flight(broker)) == (0, 1), "nothing of what nobody waits for"
            broker.cancel("later")
            await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(scenario())


def test_who_takes_over_the_name_of_a_client_waits_for_nothing_of_it(farm, watchful):
    farm.broker()
    farm.inferencer(habit="holds")

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            asked = await six_wait(broker)
        results = await asyncio.gather(*asked.values(), return_exceptions=True)
        assert {type(result) for result in results} == {Unavailable}
        async with farm.client() as successor:
            await until(lambda: successor.status()[0] and successor.status()[0].cancelled == 6)
            assert successor.status()[0].depth == 0
            answer = asyncio.create_task(successor.submit(request("new")))
            await until(lambda: successor.status()[0].depth == 1)
            successor.cancel("new")
            await asyncio.gather(answer, return_exceptions=True)

    asyncio.run(scenario())


def test_a_thread_that_asks_once_gets_the_status_or_nothing_in_time(farm):
    start_s = time.monotonic()
    assert client.ask_status(farm.settings.broker_endpoint, wait_s=0.2) is None
    assert time.monotonic() - start_s < 5
    farm.broker()
    status = client.ask_status(farm.settings.broker_endpoint, wait_s=10)
    assert status is not None
    assert (status.completed, status.failed) == (0, 0)


def test_a_client_knows_within_a_moment_that_the_broker_is_up(farm):
    async def scenario() -> None:
        async with farm.client() as broker:
            error, took_s = await outcome(broker.submit(request("r")))
            assert isinstance(error, Unavailable)
            assert took_s < 0.1
            farm.broker()
            path = farm.settings.run / "broker.sock"
            await until(path.exists)
            start_s = time.monotonic()
            await until(lambda: broker.alive)
            assert time.monotonic() - start_s < 0.5  # some 0.1 s when the machine is quiet

    asyncio.run(scenario())


def test_an_id_that_is_in_use_and_a_request_too_large_to_send_are_refused(farm, watchful):
    farm.broker()
    farm.inferencer()

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            first = asyncio.create_task(broker.submit(request("r", "slow")))
            await asyncio.sleep(0)
            assert isinstance((await outcome(broker.submit(request("r"))))[0], Conflict)
            assert (await first)[0].request_id == "r"
            too_many = [b""] * (codec.MAX_BLOBS + 1)
            assert isinstance((await outcome(broker.submit(request("r"), too_many)))[0], TooLarge)

    asyncio.run(scenario())


def test_the_work_of_a_killed_inferencer_is_done_by_another(farm, watchful):
    farm.broker()
    silent = farm.inferencer("inferencer-0", "holds")

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            answer = asyncio.create_task(broker.submit(request("r")))
            await until(lambda: in_flight(broker))
            farm.inferencer("inferencer-1")
            await until(lambda: workers(broker) == 2)
            silent.kill()
            done, _ = await asyncio.wait_for(answer, 6)  # found gone by the probe, long before it counts as dead
            assert done.engine == "inferencer-1"

    asyncio.run(scenario())


def test_a_request_that_kills_the_inferencer_twice_is_poison_and_its_neighbour_is_answered(farm, watchful):
    farm.broker()
    victim = farm.inferencer()

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            neighbour = asyncio.create_task(broker.submit(request("n", "slow")))
            poison = asyncio.create_task(broker.submit(request("p", "dies")))
            process = victim
            for _ in range(2):
                await until(lambda process=process: process.poll() is not None)
                process = farm.inferencer()  # as the supervisor would
            with pytest.raises(PoisonRequest):
                await poison
            done, _ = await neighbour
            assert done.request_id == "n"

    asyncio.run(scenario())


def test_when_the_broker_is_killed_requests_fail_soon_and_its_successor_serves(farm):
    first = farm.broker()
    farm.inferencer("inferencer-0", "holds")

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            answers = [asyncio.create_task(outcome(broker.submit(request(f"r{number}")))) for number in range(3)]
            await until(lambda: in_flight(broker) == 3)
            first.kill()
            killed_s = time.monotonic()
            errors = [error for error, _ in await asyncio.gather(*answers)]
            assert [type(error) for error in errors] == [Unavailable] * 3
            assert time.monotonic() - killed_s < 1
            farm.broker()
            farm.inferencer("inferencer-1")
            await until(lambda: workers(broker) == 2)  # the old one introduced itself again
            answers = [asyncio.create_task(broker.submit(request(f"again{number}"))) for number in range(8)]
            await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            assert {(await answer)[0].engine for answer in answers if answer.done()} == {"inferencer-1"}
            for answer in answers:
                answer.cancel()

    asyncio.run(scenario())


def test_a_broker_that_hangs_counts_as_gone_until_it_answers_again(farm, watchful):
    broker_process = farm.broker()
    farm.inferencer("inferencer-0", "holds")

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            answer = asyncio.create_task(outcome(broker.submit(request("r"))))
            await until(lambda: in_flight(broker))
            broker_process.send_signal(signal.SIGSTOP)
            error, _ = await answer
            assert isinstance(error, Unavailable)
            assert not broker.alive
            broker_process.send_signal(signal.SIGCONT)
            await until(lambda: broker.alive)

    asyncio.run(scenario())


def test_an_inferencer_that_wakes_up_after_it_was_given_up_answers_nothing_of_then(farm, watchful):
    farm.impatient_broker()
    first = farm.inferencer("inferencer-0")

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            answer = asyncio.create_task(broker.submit(request("r", "slower")))
            await until(lambda: in_flight(broker))
            first.send_signal(signal.SIGSTOP)
            farm.inferencer("inferencer-1")
            await until(lambda: busy(broker) == ["inferencer-1"])
            first.send_signal(signal.SIGCONT)
            await until(lambda: workers(broker) == 2)  # it has introduced itself, behind its late answer
            assert not answer.done(), "the late answer was taken"
            assert (await answer)[0].engine == "inferencer-1"
            assert first.poll() is None

    asyncio.run(scenario())


def test_a_second_broker_leaves_the_first_its_sockets(farm, watchful, capfd):
    farm.broker()
    farm.inferencer()

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            second = farm.broker()
            assert await asyncio.to_thread(second.wait, 20) == EXIT_LOCKED
            assert "another broker is running" in capfd.readouterr().err
            assert (await broker.submit(request("r")))[0].request_id == "r"

        async with farm.client() as newcomer:
            await until(lambda: workers(newcomer))

    asyncio.run(scenario())


def test_a_broker_asked_to_stop_finishes_what_it_has(farm, watchful):
    broker_process = farm.broker()
    farm.inferencer()

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            held = asyncio.create_task(broker.submit(request("held", "slow")))
            await until(lambda: in_flight(broker))
            broker_process.terminate()
            await until(lambda: broker.status()[0] and broker.status()[0].draining)
            error, _ = await outcome(broker.submit(request("new")))
            assert isinstance(error, Unavailable)
            assert (await held)[0].request_id == "held"

    asyncio.run(scenario())
    assert broker_process.wait(5) == 0


def test_an_inferencer_asked_to_stop_finishes_what_it_has(farm, watchful):
    farm.broker()
    first = farm.inferencer()

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            held = asyncio.create_task(broker.submit(request("held", "slow")))
            await until(lambda: in_flight(broker))
            first.terminate()
            assert (await asyncio.wait_for(held, 5))[0].request_id == "held"
            await until(lambda: workers(broker) == 0)

    asyncio.run(scenario())
    assert first.wait(5) == 0


def test_garbage_does_not_hurt_the_broker(farm):
    farm.broker()
    farm.inferencer()
    endpoint, chance = farm.settings.broker_endpoint, random.Random(0)
    good = codec.encode(request("r"), [b"jpeg"])

    async def scenario() -> None:
        async with farm.client() as broker:
            await until(lambda: workers(broker))
            stranger = sockets.dealer(endpoint, b"stranger")
            await until(lambda: sockets.send(stranger, [b""]))
            for _ in range(500):
                frames = [chance.randbytes(chance.randrange(64)) for _ in range(chance.randrange(1, 5))]
                assert sockets.send(
                    stranger, chance.choice([frames, [good[0], *frames], good[: chance.randrange(1, 3)]])
                )
            with socket.socket(socket.AF_UNIX) as raw:  # not even ZeroMQ
                raw.connect(endpoint.removeprefix("ipc://"))
                raw.sendall(chance.randbytes(4096))
            assert (await broker.submit(request("after")))[0].request_id == "after"
            sockets.close(stranger)

    asyncio.run(scenario())


def test_doorbells_wake_the_workers_of_their_lane(farm):
    farm.broker()
    stop = Stop()
    feed = EventFeed(farm.settings.events_endpoint, ["doorbell.cpu"])
    publisher = Publisher(farm.settings.broker_endpoint)
    heard: list[Event] = []

    def ring() -> bool:
        publisher.doorbell("report")
        publisher.doorbell("cpu")
        event = feed.wait(0.05)
        heard.extend([event] if event else [])
        return bool(heard)

    eventually(ring)
    while event := feed.wait(0.2):
        heard.append(event)
    assert {event.topic for event in heard} == {"doorbell.cpu"}
    stop.set()
    start_s = time.monotonic()
    assert feed.wait(10, stop.read_fd) is None
    assert time.monotonic() - start_s < 1
    publisher.close()
    feed.close()


def test_announcing_without_a_broker_costs_nothing(farm):
    publisher = Publisher(farm.settings.broker_endpoint)
    start_s = time.monotonic()
    for number in range(1_000):
        publisher.publish("job.1", {"progress": number})
    publisher.publish("job.1", {"progress": object()})
    publisher.close()
    assert time.monotonic() - start_s < 1


def test_the_gateway_hears_every_event_and_learns_when_it_missed_some(farm):
    first = farm.broker()

    async def heard(feed: AsyncEventFeed, broker: BrokerClient, topic: str) -> list[Event | Resync]:
        """What arrives until `topic` does; it is announced until then, because subscribing takes a moment."""
        got: list[Event | Resync] = []
        while not any(isinstance(item, Event) and item.topic == topic for item in got):
            broker.publish(topic)
            try:
                got.append(await asyncio.wait_for(anext(feed), 0.1))
            except TimeoutError:
                continue
        return got

    async def scenario() -> None:
        async with farm.client() as broker, AsyncEventFeed(farm.settings.events_endpoint) as feed:
            await asyncio.wait_for(heard(feed, broker, "start"), 10)
            broker.publish("models", {"id": "mdl_1"})
            got = [await asyncio.wait_for(anext(feed), 5)]
            while got[-1].topic != "models":
                got.append(await asyncio.wait_for(anext(feed), 5))
            assert got[-1].body == {"id": "mdl_1"}
            assert not any(isinstance(item, Resync) for item in got)
            first.kill()
            first.wait()
            farm.broker()
            after = await asyncio.wait_for(heard(feed, broker, "after"), 10)
            assert [item for item in after if isinstance(item, Resync)] == [Resync(reason="the broker restarted")]

    asyncio.run(scenario())
