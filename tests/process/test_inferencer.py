"""A real broker and a real inferencer, asked by a real client: predict, refuse, reload, drain, die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from shared import config, errors, ids
from shared.artifacts import ArtifactStore
from shared.clock import Deadline
from shared.db import connection, registry, tables
from shared.db.accounts import Account
from shared.specs import ModelDescription, Preprocessing, TensorInfo
from shared.wire.client import Answer, BrokerClient
from shared.wire.messages import Memory, ModelHealth, Submit
from tests.onnx_graphs import graph
from tests.process.platform import DIGITS, wait_for

pytestmark = pytest.mark.process

PICTURES = sorted((DIGITS / "held-out").glob("*.png"))


@pytest.fixture
def settings(db_file: Path) -> Iterator[config.Settings]:
    with tempfile.TemporaryDirectory(prefix="cvp-") as folder:
        made = config.load({"DATA_DIR": folder, "DB_PATH": str(db_file)})
        made.make_folders()
        yield made


class Processes:
    """The broker and an inferencer; whatever was started is gone at the end."""

    def __init__(self, settings: config.Settings) -> None:
        self._log = settings.logs / "all.log"
        self._env = os.environ | {
            "DATA_DIR": settings.data_dir,
            "DB_PATH": settings.db_path,
            "INFERENCE_PROCESSES": "1",
            "INFERENCE_WORKERS": "3",
            "INFERENCE_MEMORY_MB": "40",
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *module: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._started.append(subprocess.Popen([sys.executable, "-m", *module], env=self._env, stderr=log))
        return self._started[-1]

    def log(self) -> str:
        return self._log.read_text()

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def processes(settings: config.Settings) -> Iterator[Processes]:
    made = Processes(settings)
    yield made
    made.end()


@pytest.fixture
def digits(settings: config.Settings, owner: Account) -> str:
    description = ModelDescription(
        inputs=[TensorInfo(name="image", dtype="float32", shape=["batch", 1, 8, 8])],
        outputs=[TensorInfo(name="logits", dtype="float32", shape=["batch", 10])],
        opset=18,
        ir_version=10,
        parameters=1,
        dynamic_batch=True,
        preprocessing=msgspec.json.decode((DIGITS / "preprocessing.json").read_bytes(), type=Preprocessing),
        labels=json.loads((DIGITS / "labels.json").read_text()),
    )
    onnx = (DIGITS / "digits.onnx").read_bytes()
    return ready(ArtifactStore(settings.models), owner, onnx, "digits", description)


def ready(store: ArtifactStore, owner: Account, onnx: bytes, name: str, description: ModelDescription) -> str:
    """A model as it is once it was checked."""
    stored = store.put(onnx)
    with connection.write():
        registry.keep_artifact(stored, "models")
        model_id = registry.add_model(
            stored, owner.id, name=name, description="", framework="onnx", task_type="classification"
        )
        tables.Model.update(
            status="ready", onnx_sha256=stored.sha256, onnx_size=stored.size_bytes, description_json=description
        ).where(tables.Model.id == model_id).execute()
        registry.bump("models")
    return model_id


@pytest.fixture
def heavy(settings: config.Settings, owner: Account, tmp_path: Path) -> list[str]:
    """Four models of 16 MB, of which 40 MB hold two, and one of 48."""
    store, names = ArtifactStore(settings.models), []
    for number, mb in enumerate((16, 16, 16, 16, 48)):
        path = graph(
            tmp_path / "heavy.onnx",
            [helper.make_node("Gather", ["table", "x"], ["y"])],
            {"x": (TensorProto.INT64, ["batch", 1])},
            {"y": (TensorProto.FLOAT, ["batch", 1])},
            {"table": np.full(mb << 18, number, np.float32)},
        )
        description = ModelDescription(
            inputs=[TensorInfo(name="x", dtype="int64", shape=["batch", 1])],
            outputs=[TensorInfo(name="y", dtype="float32", shape=["batch", 1])],
            opset=18,
            ir_version=10,
            parameters=1,
            dynamic_batch=True,
            preprocessing=None,
            labels=None,
        )
        names.append(ready(store, owner, path.read_bytes(), f"heavy {number}", description))
    return names


@asynccontextmanager
async def asking(settings: config.Settings) -> AsyncIterator[BrokerClient]:
    """A client of the broker, once an inferencer is there."""
    async with BrokerClient(settings.broker_endpoint, "test") as client:
        deadline = Deadline.after_ms(20_000)
        while not ((status := client.status()[0]) and status.workers):
            assert not deadline.passed(), "no inferencer came up"
            await asyncio.sleep(0.05)
        yield client


async def predict(
    client: BrokerClient,
    model_id: str,
    *blobs: bytes,
    form: str = "images",
    inference_ms: float = 15_000,
    outputs: bool = False,
) -> Answer:
    request = Submit(
        request_id=ids.new_id("req"),
        model_id=model_id,
        form=form,
        queue_ttl_ms=15_000,
        inference_ttl_ms=inference_ms,
        top_k=3,
        raw_outputs=outputs,
    )
    return await client.submit(request, blobs)


def test_predicts_and_refuses(settings: config.Settings, processes: Processes, digits: str) -> None:
    processes.start("broker")
    processes.start("inferencer", "0")

    async def scenario() -> None:
        async with asking(settings) as client:
            await right_answers(client)
            await crowds(client)
            await refusals(client)

    async def right_answers(client: BrokerClient) -> None:
        done, (body,) = await predict(client, digits, *(path.read_bytes() for path in PICTURES))
        assert (done.engine, done.precision) == ("onnxruntime", "fp32")
        assert done.queue_ms >= 0 < done.inference_ms
        best = [row[0]["label"] for row in json.loads(body)["predictions"]]
        truth = [path.stem[-1] for path in PICTURES]
        assert sum(a == b for a, b in zip(best, truth, strict=True)) >= 0.8 * len(truth)

    async def crowds(client: BrokerClient) -> None:
        picture = PICTURES[0].read_bytes()
        answers = await asyncio.gather(*(predict(client, digits, picture) for _ in range(60)))
        assert len({body for _, (body,) in answers}) == 1
        assert max(done.batch_size for done, _ in answers) > 1

    async def refusals(client: BrokerClient) -> None:
        half = PICTURES[0].read_bytes()[:60]
        good = PICTURES[1].read_bytes()
        results = await asyncio.gather(
            predict(client, digits, good),
            predict(client, digits, half),
            predict(client, digits, b"[[1, 2], [3]]", form="tensors"),
            predict(client, digits, json.dumps([[[[0.0] * 8] * 8]]).encode(), form="tensors"),
            predict(client, "mdl_nobody", good),
            predict(client, digits, good),
            return_exceptions=True,
        )
        kinds = [type(one) for one in results]
        assert kinds == [tuple, errors.BadImage, errors.BadTensor, tuple, errors.NotFound, tuple]

    asyncio.run(scenario())


def test_follows_the_catalogue(settings: config.Settings, processes: Processes, digits: str) -> None:
    processes.start("broker")
    processes.start("inferencer", "0")
    picture = PICTURES[0].read_bytes()

    async def held(client: BrokerClient, expected: list[str]) -> None:
        deadline = Deadline.after_ms(20_000)
        while [one.model_id for worker in client.status()[0].workers for one in worker.models] != expected:
            assert not deadline.passed()
            await asyncio.sleep(0.05)

    async def scenario() -> None:
        async with asking(settings) as client:
            await predict(client, digits, picture)
            await held(client, [digits])
            with connection.write():
                registry.delete_model(digits)
            await held(client, [])
            with pytest.raises(errors.NotFound):
                await predict(client, digits, picture)

    asyncio.run(scenario())


def test_more_models_than_fit_take_turns_and_one_that_never_fits_is_told_so(
    settings: config.Settings, processes: Processes, heavy: list[str]
) -> None:
    processes.start("broker")
    processes.start("inferencer", "0")

    async def scenario() -> None:
        async with asking(settings) as client:
            for _ in range(2):
                names = [model_id for model_id in heavy[:4] for _ in range(5)]
                given = await asyncio.gather(
                    *(predict(client, model_id, b"[[7]]", form="tensors", outputs=True) for model_id in names)
                )
                numbers = [json.loads(body)["outputs"]["y"][0][0] for _, (body,) in given]
                assert numbers == [heavy.index(model_id) for model_id in names]
            with pytest.raises(
                errors.Conflict, match=r"more than the 49 MB of its file .* INFERENCE_MEMORY_MB to 193 or more"
            ):
                await predict(client, heavy[4], b"[[7]]", form="tensors", outputs=True)
            await predict(client, heavy[0], b"[[7]]", form="tensors", outputs=True)
            await told(client, lambda memory: memory.unloads >= 5)
            [worker] = client.status()[0].workers
            assert worker.memory.limit_mb == 40 >= worker.memory.used_mb == sum(one.memory_mb for one in worker.models)
            assert len(worker.models) <= 2

    asyncio.run(scenario())


async def told(client: BrokerClient, check: Callable[[Memory], bool]) -> None:
    deadline = Deadline.after_ms(20_000)
    while not check(client.status()[0].workers[0].memory):
        assert not deadline.passed()
        await asyncio.sleep(0.05)


def test_sigterm_answers_what_it_holds(settings: config.Settings, processes: Processes, digits: str) -> None:
    processes.start("broker")
    inferencer = processes.start("inferencer", "0")

    async def scenario() -> None:
        async with asking(settings) as client:
            await predict(client, digits, PICTURES[0].read_bytes())
            pictures = [PICTURES[1].read_bytes()] * 12
            asked = [asyncio.create_task(predict(client, digits, picture)) for picture in pictures]
            await asyncio.sleep(0)
            inferencer.send_signal(signal.SIGTERM)
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(one, tuple | errors.Unavailable) for one in results)

    asyncio.run(scenario())
    assert wait_for(lambda: inferencer.poll() is not None)
    assert inferencer.returncode == 0, processes.log()


def test_a_killed_inferencer_leaves_nothing_unanswered(
    settings: config.Settings, processes: Processes, digits: str
) -> None:
    processes.start("broker")
    first = processes.start("inferencer", "0")

    async def scenario() -> None:
        async with asking(settings) as client:
            await predict(client, digits, PICTURES[0].read_bytes())
            asked = [asyncio.create_task(predict(client, digits, path.read_bytes())) for path in PICTURES]
            await asyncio.sleep(0)
            first.kill()
            first.wait()
            processes.start("inferencer", "0")
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(one, tuple | errors.AppError) for one in results)
            done, _ = await predict(client, digits, PICTURES[0].read_bytes())
            assert done.engine == "onnxruntime"

    asyncio.run(scenario())


def images_of(value: float) -> bytes:
    return json.dumps([[[[value] * 8] * 8]]).encode()


def test_an_engine_that_never_returns_ends_its_process_and_its_request_in_time(
    settings: config.Settings, processes: Processes, digits: str
) -> None:
    processes.start("broker")
    hangs = processes.start("tests.process.inferencer_that_sickens", "0")

    async def scenario() -> None:
        async with asking(settings) as client:
            await predict(client, digits, images_of(0.5), form="tensors")
            with pytest.raises(errors.DeadlineExceeded):
                await predict(client, digits, images_of(-1e6), form="tensors", inference_ms=1_000)
            assert wait_for(lambda: hangs.poll() is not None, 20, "the end of who hangs")
            processes.start("inferencer", "0")
            assert await predict(client, digits, images_of(0.5), form="tensors")

    asyncio.run(scenario())
    assert "Timeout" in processes.log(), "the stacks of its threads say where it hung"


def test_an_engine_that_breaks_and_nobody_asks_is_found_and_mended(
    settings: config.Settings, processes: Processes, digits: str
) -> None:
    """No request fails: the probe is there first. What one load mends is mended; else the process begins anew."""
    processes.start("broker")
    inferencer = processes.start("tests.process.inferencer_that_sickens", "0", "0.3")

    def health(client: BrokerClient) -> ModelHealth:
        models = [model for worker in client.status()[0].workers for model in worker.models]
        return models[0].health if models else ModelHealth()

    async def until(check: Callable[[], bool]) -> None:
        deadline = Deadline.after_ms(20_000)
        while not check():
            assert not deadline.passed(), processes.log()
            await asyncio.sleep(0.05)

    async def scenario() -> None:
        async with asking(settings) as client:
            _, (body,) = await predict(client, digits, images_of(0.5), form="tensors")
            await until(lambda: health(client).probes > 0)
            assert health(client).failed_probes == 0
            await predict(client, digits, images_of(555), form="tensors")
            await until(lambda: health(client).failed_probes == 1)
            assert await predict(client, digits, images_of(0.5), form="tensors")
            await until(lambda: health(client).failure == "")
            await predict(client, digits, images_of(777), form="tensors")
            await until(lambda: "it cannot be loaded again: the process ends" in processes.log())
            _, (again,) = await predict(client, digits, images_of(0.5), form="tensors")
            assert again == body
            await until(lambda: health(client).probes > 0 and health(client).failed_probes == 0)

    asyncio.run(scenario())
    assert inferencer.poll() is None
    assert processes.log().count("it is loaded again") == 2


def test_an_engine_that_breaks_for_good_is_replaced_and_only_what_breaks_it_is_refused(
    settings: config.Settings, processes: Processes, digits: str
) -> None:
    processes.start("broker")
    processes.start("tests.process.inferencer_that_sickens", "0")
    good, bad = images_of(0.5), images_of(1e6)

    async def scenario() -> None:
        async with asking(settings) as client:
            _, (body,) = await predict(client, digits, good, form="tensors")
            asked = [predict(client, digits, bad if number == 3 else good, form="tensors") for number in range(8)]
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(results.pop(3), errors.PoisonRequest), results
            assert [answer[1] for answer in results if isinstance(answer, tuple)] == [[body]] * 7, results
            status, _ = client.status()
            assert status is not None
            assert not any(worker.failing for worker in status.workers)

    asyncio.run(scenario())
    assert "requests fail, and so does what this process was activated with" in processes.log()
