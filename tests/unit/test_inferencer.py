"""Sessions, computing and the worker's threads, with a catalogue of two lists and the fake engine."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from inferencer import worker
from inferencer.__main__ import share_of
from inferencer.batcher import Batcher, Request
from inferencer.compute import answer, with_cut
from inferencer.doubts import Doubts
from inferencer.health import IDLE_S, PROBE_S, Health
from inferencer.heap import LEFT_MB, Heap, may_start_again
from inferencer.sessions import FAILED_S, TOO_LARGE_S, Sessions, Share
from inferencer.worker import Worker, credit
from shared import config, errors, gpu
from shared.engines.base import Feeds, Tensor
from shared.engines.fake import Fake
from shared.runtime import Runtime, Serving
from shared.specs import Preprocessing, Resize, TensorInfo
from shared.wire.messages import Assign, Done, Failed, LoadedModel, ModelHealth
from tests.conftest import eventually

CONTRACT = Preprocessing(resize=Resize(height=8, width=8), scores="probabilities")


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def serving(model_id: str, file: Path, batch_size: int = 4) -> Serving:
    return Serving(
        model_id=model_id,
        name=model_id,
        task_type="classification",
        onnx=file,
        inputs=[TensorInfo(name="image", dtype="float32", shape=["batch", 3, 8, 8])],
        outputs=[TensorInfo(name="scores", dtype="float32", shape=["batch", 3])],
        dynamic_batch=True,
        preprocessing=CONTRACT,
        labels=None,
        scores="logits",
        engine="onnxruntime",
        precision="fp32",
        batch_size=batch_size,
        threads=1,
    )


class Shelf:
    """A catalogue whose models come and go."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.models: dict[str, Serving] = {}
        self.defaults: dict[str, Serving] = {}
        self.changes = 0
        self.failure: Exception | None = None

    def put(self, model_id: str, batch_size: int = 4) -> None:
        self.models[model_id] = serving(model_id, self.file, batch_size)
        self.changes += 1

    def activate(self, model_id: str, deployment_id: str, **changes: Any) -> None:
        """A deployment takes the place of the default."""
        self.defaults.setdefault(model_id, self.models[model_id])
        default = self.defaults[model_id]
        self.models[model_id] = msgspec.structs.replace(default, deployment_id=deployment_id, **changes)
        self.changes += 1

    def drop(self, model_id: str) -> None:
        del self.models[model_id]
        self.changes += 1

    def revision(self) -> int:
        if self.failure is not None:
            raise self.failure
        return self.changes

    def deployed(self) -> list[str]:
        return [model_id for model_id, given in reversed(self.models.items()) if given.deployment_id]

    def lookup(self, model_id: str) -> Serving | None:
        return self.models.get(model_id)

    def default(self, model_id: str) -> Serving | None:
        return self.defaults.get(model_id, self.models.get(model_id))


class Probe(Fake):
    """Fails on images whose red is 13, waits at a gate if there is one, and counts."""

    def __init__(self, file: Path, gate: threading.Event | None = None) -> None:
        super().__init__(file)
        self.gate = gate
        self.batches: list[int] = []
        self.active = False
        self.mb = 0.0
        self.gpu_mb = 0.0

    def _activate(self):
        self.active = True
        return super()._activate()._replace(device="CUDA:0" if self.gpu_mb else "CPU")

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        self.batches.append(len(feeds["image"]))
        if self.gate is not None and len(self.batches) > 1:  # the rehearsal passes
            assert self.gate.wait(10)
        if np.isclose(feeds["image"][:, 0, 0, 0], 13 / 255).any():
            raise RuntimeError("an unlucky number")
        return super()._infer(feeds)

    def _deactivate(self) -> None:
        self.active = False


SHARE = Share(1000, 2)


class Fill(Heap):
    """What the engines of a farm say they take, and what stays of those that are gone."""

    def __init__(self, farm: Farm) -> None:
        super().__init__()
        self.farm = farm

    def resident_mb(self) -> float:
        return 50.0 + self.farm.left_mb + sum(engine.mb for engine in self.farm.engines if engine.active)

    def on_gpu(self) -> gpu.Taken | None:
        if not self.farm.told_of_gpu:
            return None
        used_mb = 300 + sum(engine.gpu_mb or 0.0 for engine in self.farm.engines if engine.active)
        return gpu.Taken(here_mb=None, by_all_mb=used_mb)


class Farm:
    """Everything but the broker: what the threads deliver is kept here."""

    def __init__(self, tmp_path: Path, *, threads: int = 2, at_once: int = 1, share: Share = SHARE) -> None:
        file = tmp_path / "model"
        file.touch()
        self.shelf = Shelf(file)
        self.engines: list[Probe] = []
        self.make: Callable[[Serving], Probe] = lambda given: Probe(given.onnx)
        self.skipped_s = 0.0
        self.sizes: dict[str, float] = {}
        self.on_gpu: dict[str, float] = {}
        self.told_of_gpu = True
        self.left_mb = 0.0
        self.sessions = Sessions(self.shelf, self._runtime, share=share, heap=Fill(self), clock=self.clock)
        self.batcher = Batcher(at_once, self.sessions.room, self.clock)
        self.answers: dict[str, tuple[Done | Failed, Sequence[bytes]]] = {}
        self.rearmed = 0
        self.told: list[list[str]] = []
        self.recycled: list[float] = []
        self.ended = threading.Event()
        self.worker = Worker(
            self.sessions,
            self.batcher,
            self,
            clock=self.clock,
            rearm=self._rearm,
            recycle=self.recycled.append,
            end=self.ended.set,
        )
        self.worker.start(threads)

    def clock(self) -> float:
        return time.monotonic() + self.skipped_s

    def _runtime(self, given: Serving) -> Runtime:
        self.engines.append(self.make(given))
        self.engines[-1].mb = self.sizes.get(given.model_id, 0.0)
        self.engines[-1].gpu_mb = self.on_gpu.get(given.model_id, 0.0)
        return Runtime(given, engine=self.engines[-1])

    def _rearm(self) -> None:
        self.rearmed += 1

    def deliver(self, answers: Sequence[tuple[Done | Failed, Sequence[bytes]]]) -> None:
        for message, blobs in answers:
            assert message.request_id not in self.answers, "answered twice"
            self.answers[message.request_id] = message, blobs

    def tell(self) -> None:
        self.told.append([one.model_id for one in self.sessions.loaded()])

    def put(self, request_id: str, model_id: str = "m", value: int = 100, **rest: Any) -> None:
        given = Assign(
            request_id=request_id, model_id=model_id, form="images", ttl_ms=30_000, waited_ms=7.0, top_k=1, **rest
        )
        self.batcher.put(given, [png(value)])

    def get(self, request_id: str) -> Done | Failed:
        eventually(lambda: request_id in self.answers)
        return self.answers[request_id][0]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(tmp_path)
    farm.shelf.put("m")
    yield farm
    farm.worker.close()


def request(request_id: str, blob: bytes, form: str = "images") -> Request:
    given = Assign(request_id=request_id, model_id="m", form=form, ttl_ms=30_000, waited_ms=0.0)
    return Request(given, [blob], 0.0)


class TestCompute:
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        (tmp_path / "model").touch()
        runtime = Runtime(serving("m", tmp_path / "model", 8), engine=Probe(tmp_path / "model"))
        runtime.activate()
        return runtime

    def answers(self, runtime: Runtime, *requests: Request) -> dict[str, Done | Failed]:
        return {one.message.request_id: one.message for one in answer(runtime, requests, lambda: 0.001)}

    def test_images_and_tensors_share_a_call(self, runtime: Runtime) -> None:
        tensor = json.dumps(np.full((2, 3, 8, 8), 0.5).tolist()).encode()
        bodies = {
            one.message.request_id: json.loads(one.blobs[0])
            for one in answer(runtime, [request("i", png(51)), request("t", tensor, "tensors")], lambda: 0.001)
        }
        assert runtime._sessions[0].batches == [8, 3]
        assert [best["confidence"] for best in bodies["i"]["predictions"][0]] == [0.2, 0.0, 0.0]
        assert [row[0]["confidence"] for row in bodies["t"]["predictions"]] == [0.5, 0.5]

    def test_the_first_answer_says_how_its_batch_was_cut(self, runtime: Runtime) -> None:
        given = [request("bad", b"GIF89a"), request("1", png(1)), request("2", png(2))]
        answers = [one.message for one in with_cut(answer(runtime, given, lambda: 0.001), "full")]
        assert [one.cut if isinstance(one, Done) else one.code for one in answers] == ["bad_image", "full", None]

    def test_a_bad_image_fails_nobody_else(self, runtime: Runtime) -> None:
        got = self.answers(runtime, request("1", png(1)), request("bad", b"GIF89a"), request("2", png(2)))
        assert isinstance(got["bad"], Failed)
        assert got["bad"].code == "bad_image"
        assert got["1"].batch_size == got["2"].batch_size == 2

    def test_a_failing_batch_is_run_one_by_one(self, runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
        got = self.answers(runtime, request("1", png(1)), request("bad", png(13)), request("2", png(2)))
        assert isinstance(got["bad"], Failed)
        assert got["bad"].code == "engine_failed"
        assert "an unlucky number" in got["bad"].message
        assert [got[name].batch_size for name in "12"] == [1, 1]
        assert [record.exc_info is not None for record in caplog.records] == [True]

    def test_what_nobody_expected_is_one_plain_sentence(
        self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(Runtime, "decode", lambda *_: 1 / 0)
        got = self.answers(runtime, request("1", png(1)))
        assert got["1"] == Failed(
            request_id="1",
            code="internal",
            message="The prediction failed unexpectedly; the log of the inferencer has the details.",
        )
        assert "ZeroDivisionError" in caplog.text

    def test_too_late_is_not_computed(self, runtime: Runtime) -> None:
        late = [one.message for one in answer(runtime, [request("1", png(1))], lambda: 31.0)]
        assert [one.code for one in late if isinstance(one, Failed)] == ["deadline_exceeded"]
        assert runtime._sessions[0].batches == [8]

    def test_times_add_up(self, runtime: Runtime) -> None:
        ticks = iter(
            [2.0, 2.0, 2.0, 2.25, 3.0, 3.0, 4.0]
        )  # taken, twice the deadline, decoded, engine in, deadline, engine out
        (one,) = answer(runtime, [Request(request("1", png(1)).assign, [png(1)], 1.5)], lambda: next(ticks))
        assert isinstance(one.message, Done)
        assert (one.message.queue_ms, one.message.decode_ms, one.message.inference_ms) == (500.0, 250.0, 1000.0)


class TestSessions:
    def test_loads_on_first_use_and_once(self, farm: Farm) -> None:
        gate = threading.Event()

        def slow(given: Serving) -> Probe:
            assert gate.wait(10)
            return Probe(given.onnx)

        farm.make = slow
        for number in range(6):
            farm.put(f"r{number}")
        gate.set()
        done = [farm.get(f"r{number}") for number in range(6)]
        assert all(isinstance(one, Done) for one in done)
        assert len(farm.engines) == 1
        assert farm.engines[0].batches == [4, 4, 2]  # the rehearsal, then what had gathered

    def test_loading_holds_up_no_other_model(self, farm: Farm) -> None:
        farm.shelf.put("slow")
        farm.put("warm")
        assert isinstance(farm.get("warm"), Done)
        gate = threading.Event()

        def make(given: Serving) -> Probe:
            assert gate.wait(10)
            return Probe(given.onnx)

        farm.make = make
        farm.put("s", "slow")
        farm.put("m")
        assert isinstance(farm.get("m"), Done)
        assert "s" not in farm.answers
        gate.set()
        assert isinstance(farm.get("s"), Done)

    def test_an_unknown_model(self, farm: Farm) -> None:
        farm.put("r", "nobody")
        assert farm.get("r") == Failed(
            request_id="r", code="not_found", message="There is no model 'nobody' that is ready to predict."
        )

    def test_a_model_that_does_not_load_says_why_and_is_tried_again(self, farm: Farm) -> None:
        good = farm.make
        farm.make = lambda given: (_ for _ in ()).throw(errors.BadModel("It is broken."))
        farm.put("r1")
        assert farm.get("r1") == Failed(request_id="r1", code="bad_model", message="It is broken.")
        farm.make = good
        farm.put("r2")  # within the second, with the others that waited
        assert farm.get("r2") == Failed(request_id="r2", code="bad_model", message="It is broken.")
        farm.skipped_s += FAILED_S
        farm.put("r3")
        assert isinstance(farm.get("r3"), Done)

    @pytest.mark.parametrize("content", [None, b"half a model"])
    def test_a_stored_file_that_is_damaged_is_not_blamed_on_the_client(
        self, farm: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
    ) -> None:
        file = tmp_path / hashlib.sha256(b"a whole model").hexdigest()
        if content is not None:
            file.write_bytes(content)
        farm.shelf.file = file
        farm.shelf.put("m")
        farm.make = lambda given: (_ for _ in ()).throw(errors.BadModel("It is not complete."))
        farm.put("r")
        failed = farm.get("r")
        assert isinstance(failed, Failed) and failed.code == "conflict"
        assert failed.message.startswith("The stored file of model m is damaged or gone. Restore a backup")
        assert "damaged" in caplog.text

    def test_a_change_takes_over_and_the_old_is_let_go(self, farm: Farm) -> None:
        farm.put("r1")
        farm.get("r1")
        farm.shelf.put("m", batch_size=2)
        eventually(lambda: farm.sessions.room("m") == 2)
        farm.put("r2")
        assert isinstance(farm.get("r2"), Done)
        assert [engine.active for engine in farm.engines] == [False, True]
        assert [one.batch_size for one in farm.sessions.loaded()] == [2]

    def test_the_old_answers_until_the_new_is_ready(self, farm: Farm) -> None:
        farm.put("r1")
        farm.get("r1")
        gate, begun = threading.Event(), threading.Event()

        def make(given: Serving) -> Probe:
            begun.set()
            assert gate.wait(10)
            return Probe(given.onnx)

        farm.make = make
        farm.shelf.activate("m", "dep_1", batch_size=2)
        assert begun.wait(10)
        farm.put("r2")
        assert isinstance(farm.get("r2"), Done)
        assert [one.deployment_id for one in farm.sessions.loaded()] == [""]
        gate.set()
        eventually(lambda: [one.deployment_id for one in farm.sessions.loaded()] == ["dep_1"])
        eventually(lambda: [engine.active for engine in farm.engines] == [False, True])

    def test_a_deployment_that_fails_here_leaves_the_old_and_says_why(self, farm: Farm) -> None:
        farm.put("r1")
        farm.get("r1")
        tried = []

        def broken(given: Serving) -> Probe:
            tried.append(given.deployment_id)
            raise errors.EngineUnavailable("It is not installed.")

        farm.make = broken
        farm.shelf.activate("m", "dep_1", engine="openvino")
        eventually(lambda: farm.sessions.loaded()[0].problem)
        (told,) = farm.sessions.loaded()
        assert (told.engine, told.deployment_id) == ("onnxruntime", "")
        assert told.problem == "openvino in fp32 cannot serve: It is not installed."
        farm.shelf.put("other")  # another change of the catalogue is no reason to try again
        farm.sessions.refresh()
        farm.sessions.renew()
        assert tried == ["dep_1"]
        farm.put("r2")
        assert isinstance(farm.get("r2"), Done)
        farm.shelf.activate("m", "dep_2")
        farm.make = lambda given: Probe(given.onnx)
        eventually(lambda: farm.sessions.loaded()[0].deployment_id == "dep_2")
        assert farm.sessions.loaded()[0].problem == ""

    def test_a_deployment_that_fails_at_the_start_leaves_it_to_the_default(self, farm: Farm) -> None:
        farm.make = lambda given: Probe(given.onnx) if not given.deployment_id else 1 / 0
        farm.shelf.activate("m", "dep_1", batch_size=2)
        farm.put("r1")
        assert isinstance(farm.get("r1"), Done)
        (told,) = farm.sessions.loaded()
        assert (told.deployment_id, told.batch_size) == ("", 4)
        assert told.problem == "onnxruntime in fp32 cannot serve: ZeroDivisionError: division by zero"

    def test_back_to_the_default_that_serves_already_clears_the_problem(self, farm: Farm) -> None:
        farm.put("r1")
        farm.get("r1")
        farm.make = lambda given: 1 / 0
        farm.shelf.activate("m", "dep_1")
        eventually(lambda: farm.sessions.loaded()[0].problem)
        farm.make = lambda given: Probe(given.onnx)
        farm.shelf.put("m")
        eventually(lambda: not farm.sessions.loaded()[0].problem)

    def test_a_change_while_it_loads_is_seen_afterwards(self, farm: Farm) -> None:
        gate, begun = threading.Event(), threading.Event()

        def make(given: Serving) -> Probe:
            begun.set()
            assert gate.wait(10)
            return Probe(given.onnx)

        farm.make = make
        farm.put("r1")
        assert begun.wait(10)
        farm.shelf.put("m", batch_size=2)
        farm.sessions.refresh()
        gate.set()
        assert isinstance(farm.get("r1"), Done)
        eventually(lambda: farm.sessions.room("m") == 2)

    def test_another_models_change_changes_nothing(self, farm: Farm) -> None:
        farm.put("r1")
        farm.get("r1")
        farm.shelf.put("other")
        farm.sessions.refresh()
        assert farm.sessions.room("m") == 4

    def test_a_model_that_is_gone_is_unloaded_but_not_under_a_call(self, farm: Farm) -> None:
        gate = threading.Event()
        farm.make = lambda given: Probe(given.onnx, gate)
        farm.put("r1")
        eventually(lambda: farm.engines and len(farm.engines[0].batches) == 2)
        farm.shelf.drop("m")
        eventually(lambda: farm.sessions.loaded() == [])
        assert farm.engines[0].active
        gate.set()
        assert isinstance(farm.get("r1"), Done)
        eventually(lambda: not farm.engines[0].active)
        farm.put("r2")
        assert farm.get("r2").code == "not_found"

    def test_a_catalogue_that_cannot_be_read_stops_nothing(self, farm: Farm) -> None:
        farm.put("r1")
        farm.get("r1")
        before = farm.rearmed
        farm.shelf.failure = errors.Unavailable("The database is away.")
        eventually(lambda: farm.rearmed > before + 1)
        farm.put("r2")
        assert isinstance(farm.get("r2"), Done)

    def test_what_is_loaded_is_told(self, farm: Farm) -> None:
        assert farm.sessions.loaded() == []
        farm.put("r")
        farm.get("r")
        (one,) = farm.sessions.loaded()
        assert (one.model_id, one.engine, one.precision, one.batch_size) == ("m", "onnxruntime", "fp32", 4)
        assert one.memory_mb >= 0


class TestMemory:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Farm]:
        """Room for 100 MB, and models of 40."""
        farm = Farm(tmp_path, share=Share(100, 2))
        for name in "abcd":
            farm.shelf.put(name)
            farm.sizes[name] = 40
        yield farm
        farm.worker.close()

    def ask(self, farm: Farm, model_id: str) -> Done | Failed:
        request_id = f"{model_id}{len(farm.answers)}"
        farm.put(request_id, model_id)
        return farm.get(request_id)

    def held(self, farm: Farm) -> list[str]:
        return sorted(one.model_id for one in farm.sessions.loaded())

    def test_the_least_recently_used_makes_room(self, small: Farm) -> None:
        for name in "aba":
            assert isinstance(self.ask(small, name), Done)
        assert isinstance(self.ask(small, "c"), Done)
        assert self.held(small) == ["a", "c"]
        assert sum(engine.active for engine in small.engines) == 2
        memory = small.sessions.memory()
        assert (memory.limit_mb, memory.used_mb, memory.loads, memory.unloads) == (100, 80, 3, 1)
        assert small.told[-1] == ["a", "c"]

    def test_who_is_waited_for_at_the_broker_goes_last(self, small: Farm) -> None:
        for name in "ab":
            self.ask(small, name)
        small.put("c", "c", wanted=["a"])
        assert isinstance(small.get("c"), Done)
        assert self.held(small) == ["a", "c"]

    def test_what_goes_is_gone_before_the_next_comes_where_its_size_is_known(self, small: Farm) -> None:
        most = 0.0

        def make(given: Serving) -> Probe:
            nonlocal most
            most = max(most, small.sessions._heap.resident_mb() - 50)
            return Probe(given.onnx)

        for name in "abc":
            self.ask(small, name)
        small.make = make
        for name in "abcabc":
            assert isinstance(self.ask(small, name), Done)
        assert most <= 60

    def test_a_call_that_runs_is_waited_for(self, small: Farm) -> None:
        gate = threading.Event()
        small.make = lambda given: Probe(given.onnx, gate if given.model_id == "a" else None)
        self.ask(small, "b")
        small.sizes["b"] = small.sizes["c"] = 70
        small.put("a", "a")
        eventually(lambda: len(small.engines) == 2 and len(small.engines[1].batches) == 2)
        small.sizes["c"] = 90
        small.put("c", "c")
        eventually(lambda: "a" not in self.held(small) or len(small.engines) > 2)
        assert small.engines[1].active
        gate.set()
        assert isinstance(small.get("a"), Done)
        assert isinstance(small.get("c"), Done)
        assert self.held(small) == ["c"]

    def test_models_that_do_not_fit_together_take_turns_and_everybody_is_answered(self, small: Farm) -> None:
        names = [f"{name}{number}" for number in range(5) for name in "abcd"]
        for name in names:
            small.put(name, name[0])
        assert all(isinstance(small.get(name), Done) for name in names)
        assert len(small.engines) <= len(names)
        assert sum(engine.active for engine in small.engines) <= 2

    def test_one_that_is_too_large_is_refused_with_what_to_do_and_drives_nobody_out_again(self, small: Farm) -> None:
        small.sizes["d"] = 140
        self.ask(small, "a")
        refused = self.ask(small, "d")
        assert isinstance(refused, Failed)
        assert refused.code == "conflict"
        assert refused.message == (
            "The model takes 140 MB in each of 2 inference processes, which may use 100 MB for models. Set "
            "INFERENCE_MEMORY_MB to 336 or more and start the platform again, or use a smaller model."
        )
        assert self.held(small) == ["a"]
        small.skipped_s += FAILED_S
        assert isinstance(self.ask(small, "d"), Failed)
        assert len(small.engines) == 2, "not measured again"
        small.skipped_s += TOO_LARGE_S
        small.sizes["d"] = 60  # what else grew when it was measured does not now
        assert isinstance(self.ask(small, "d"), Done)

    def test_one_whose_file_is_too_large_already_is_not_loaded(self, small: Farm) -> None:
        with small.shelf.file.open("wb") as file:
            file.truncate(101 << 20)  # sparse
        refused = self.ask(small, "a")
        assert isinstance(refused, Failed)
        assert "takes more than the 101 MB of its file" in refused.message
        assert "INFERENCE_MEMORY_MB to 808 or more" in refused.message
        assert small.engines == []

    def test_a_deployment_that_is_too_large_leaves_it_to_what_serves(self, small: Farm) -> None:
        self.ask(small, "a")
        small.sizes["a"] = 120
        small.shelf.activate("a", "dep_1")
        eventually(lambda: small.sessions.loaded()[0].problem)
        assert "INFERENCE_MEMORY_MB to 288" in small.sessions.loaded()[0].problem
        assert isinstance(self.ask(small, "a"), Done)

    def test_a_takeover_has_others_make_room(self, small: Farm) -> None:
        self.ask(small, "b")
        self.ask(small, "a")
        small.sizes["a"] = 50
        small.shelf.activate("a", "dep_1")
        eventually(lambda: [one.deployment_id for one in small.sessions.loaded()] == ["dep_1"])
        assert isinstance(self.ask(small, "b"), Done)
        assert self.held(small) == ["a", "b"]

    def test_what_was_activated_is_loaded_before_anybody_asks_as_far_as_it_fits(self, small: Farm) -> None:
        self.ask(small, "d")
        for name in "abc":
            small.shelf.activate(name, f"dep_{name}")
        eventually(lambda: self.held(small) == ["c", "d"])
        eventually(lambda: small.told[-1] == ["d", "c"])
        before = small.rearmed
        eventually(lambda: small.rearmed > before + 2)
        assert self.held(small) == ["c", "d"], "the others wait for somebody to ask"

    def test_a_process_that_keeps_what_is_gone_asks_to_be_started_again(self, small: Farm) -> None:
        small.left_mb = 0.0
        self.ask(small, "a")
        before = small.rearmed
        small.left_mb = LEFT_MB + 10
        eventually(lambda: small.rearmed > before + 1)
        assert small.recycled == [], "nothing has been unloaded yet"
        small.shelf.drop("a")
        eventually(lambda: small.recycled)
        assert small.recycled[0] == pytest.approx(LEFT_MB + 10)

    def test_never_two_processes_at_once(self) -> None:
        turns = [[may_start_again(index, 3, now_s / 2) for index in range(3)] for now_s in range(400)]
        assert all(sum(turn) <= 1 for turn in turns)
        assert all(any(turn[index] for turn in turns) for index in range(3))


class TestMemoryOfTheGpu:
    ask = TestMemory.ask

    @pytest.fixture
    def card(self, tmp_path: Path) -> Iterator[Farm]:
        """Room for 100 MB of the GPU; models that take 40 of it, but for `e`, which runs on the processor."""
        farm = Farm(tmp_path, share=Share(1000, 2, gpu_mb=100, gpu_total_mb=250))
        for name in "abcde":
            farm.shelf.put(name)
            farm.sizes[name] = 10
        farm.on_gpu.update(dict.fromkeys("abcd", 40))
        yield farm
        farm.worker.close()

    def test_the_least_recently_used_of_those_that_take_some_makes_room(self, card: Farm) -> None:
        for name in "eabac":
            assert isinstance(self.ask(card, name), Done)
        assert sorted(one.model_id for one in card.sessions.loaded()) == ["a", "c", "e"]
        assert {one.model_id: one.gpu_memory_mb for one in card.sessions.loaded()} == {"a": 40, "c": 40, "e": 0}
        memory = card.sessions.memory()
        assert (memory.gpu_limit_mb, memory.gpu_used_mb, memory.used_mb, memory.unloads) == (100, 80, 30, 1)

    def test_what_nobody_tells_is_taken_for_the_size_of_its_file(self, card: Farm) -> None:
        card.told_of_gpu = False
        with card.shelf.file.open("wb") as file:
            file.write(b"\x1a\x80\x80\x80\x1e")  # one field with all the rest
            file.truncate(5 + (60 << 20))  # sparse
        for name in "ab":
            assert isinstance(self.ask(card, name), Done)
        assert [(one.model_id, one.gpu_memory_mb) for one in card.sessions.loaded()] == [("b", 60)]

    @pytest.mark.parametrize(
        ("takes", "advice"),
        [(104, "Set GPU_MEMORY_MB to 250 or more"), (140, "Set INFERENCE_PROCESSES to fewer")],
    )
    def test_one_that_is_too_large_is_refused_with_what_to_do(self, card: Farm, takes: float, advice: str) -> None:
        card.on_gpu["a"] = takes
        refused = self.ask(card, "a")
        assert isinstance(refused, Failed)
        assert refused.message == (
            f"The model takes {takes} MB of the GPU's memory in each of 2 inference processes, which may use 100 MB "
            f"for models. {advice} and start the platform again, or use a smaller model."
        )
        assert not any(engine.active for engine in card.engines)

    @pytest.mark.parametrize(("asked", "share_mb"), [("0", 400), ("500", 250), ("9000", 400)])
    def test_each_process_has_its_part(self, asked: str, share_mb: float) -> None:
        settings = config.load({"GPU_MEMORY_MB": asked, "INFERENCE_PROCESSES": "2", "INFERENCE_MEMORY_MB": "600"})
        assert share_of(settings, 800) == Share(300, 2, share_mb, 800)
        assert share_of(settings, None) == Share(300, 2)


class TestDoubts:
    def test_a_request_that_an_engine_fails_says_nothing_about_the_process(self, farm: Farm) -> None:
        farm.put("unlucky", value=13)
        assert farm.get("unlucky").code == "engine_failed"
        assert not farm.ended.is_set()
        assert farm.engines[0].batches == [4, 1, 4], "what must succeed was run once more"

    def test_a_process_whose_engine_fails_from_now_on_ends_itself(self, farm: Farm) -> None:
        farm.put("r1")
        farm.get("r1")
        farm.engines[0].failure = RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        farm.put("r2")
        assert farm.ended.wait(10)

    def test_bad_requests_cost_one_probe_a_second(self) -> None:
        now_s, probed, ended = [0.0], [], []
        doubts = Doubts(lambda: ended.append(1), lambda: now_s[0])
        runtime = SimpleNamespace(probe=lambda: probed.append(now_s[0]))
        failure = Failed(request_id="r", code="engine_failed", message="It failed.")
        for now_s[0] in (0.0, 0.1, 0.9, 1.1):
            doubts.settle(runtime, [failure, failure])
        assert (probed, ended) == ([0.0, 1.1], [])

    @pytest.mark.parametrize("code", ["bad_image", "bad_tensor", "too_large", "deadline_exceeded"])
    def test_what_is_plainly_the_request_s_fault_costs_nothing(self, code: str) -> None:
        doubts = Doubts(lambda: None, time.monotonic)
        doubts.settle(SimpleNamespace(probe=lambda: 1 / 0), [Failed(request_id="r", code=code, message="No.")])


DONE = Done(
    request_id="r", engine="onnxruntime", precision="fp32", batch_size=1, queue_ms=0, decode_ms=0, inference_ms=0
)
BROKEN, OWN_FAULT = (Failed(request_id="r", code=code, message="It failed.") for code in ("engine_failed", "bad_image"))


class TestHealth:
    @pytest.fixture
    def now_s(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def health(self, now_s: list[float]) -> Health:
        made = Health(lambda: now_s[0])
        assert made.due(["m"]) is None, "it was run when it was loaded"
        return made

    def told(self, health: Health) -> ModelHealth:
        model = LoadedModel(model_id="m", engine="onnxruntime", precision="fp32", batch_size=1, memory_mb=0)
        return health.told([model])[0].health

    def probed_at(self, health: Health, now_s: list[float], seconds: int, *, passes: bool = True) -> list[int]:
        """The moments of the next seconds at which it was probed."""
        found = []
        for second in range(1, seconds + 1):
            now_s[0] += 1
            if health.due(["m"]) is not None:
                found.append(second)
                if passes:
                    health.passed("m")
                else:
                    health.failed("m", "It failed.")
        return found

    def test_who_answers_is_never_probed(self, health: Health, now_s: list[float]) -> None:
        for _ in range(1000):
            now_s[0] += 1
            health.worked("m", [OWN_FAULT, DONE], {"engine_failed"})
            assert health.due(["m"]) is None
        assert self.told(health) == ModelHealth()

    def test_who_answered_is_probed_soon_after_and_then_rarely(self, health: Health, now_s: list[float]) -> None:
        health.worked("m", [DONE], {"engine_failed"})
        assert self.probed_at(health, now_s, 1000) == [PROBE_S, PROBE_S + IDLE_S, PROBE_S + 2 * IDLE_S, 920]

    def test_who_has_requests_and_answers_none_is_probed_all_the_time(self, health: Health, now_s: list[float]) -> None:
        found = []
        for second in range(1, 101):
            health.worked("m", [BROKEN, OWN_FAULT], {"engine_failed"})
            found += [second for _ in self.probed_at(health, now_s, 1)]
        assert found == [20, 40, 60, 80, 100]

    def test_after_a_failure_the_next_probe_comes_soon(self, health: Health, now_s: list[float]) -> None:
        assert self.probed_at(health, now_s, 330, passes=False) == [IDLE_S, IDLE_S + PROBE_S]
        assert self.told(health) == ModelHealth(success_age_ms=330e3, probes=2, failed_probes=2, failure="It failed.")

    def test_failures_in_a_row_are_those_since_the_last_success(self, health: Health) -> None:
        assert [health.failed("m", "no"), health.failed("m", "no")] == [1, 2]
        health.passed("m")
        assert self.told(health).failure == ""
        assert health.failed("m", "x" * 1000) == 1
        assert self.told(health).failure == "x" * 256
        health.worked("m", [DONE], {"engine_failed"})
        assert health.failed("m", "no") == 1

    def test_what_requests_fail_at_is_told_unless_it_is_their_own_fault(
        self, health: Health, now_s: list[float]
    ) -> None:
        now_s[0] += 2
        health.worked("m", [OWN_FAULT], {"engine_failed"})
        assert self.told(health) == ModelHealth(success_age_ms=2000)
        health.worked("m", [BROKEN], {"engine_failed"})
        assert self.told(health) == ModelHealth(success_age_ms=2000, failure="It failed.")

    def test_the_longest_without_success_is_first_and_what_is_gone_is_forgotten(
        self, health: Health, now_s: list[float]
    ) -> None:
        health.failed("m", "no")
        now_s[0] += 1
        health.worked("other", [BROKEN], {"engine_failed"})
        now_s[0] += IDLE_S
        assert health.due(["other", "m"]) == "m"
        health.put_off("m")
        assert health.due(["other", "m"]) == "other"
        assert health.due([]) is None
        assert self.told(health) == ModelHealth()


class TestProbes:
    def loaded(self, farm: Farm) -> Probe:
        """The engine of a model that has answered once."""
        farm.put("first")
        assert isinstance(farm.get("first"), Done)
        return farm.engines[-1]

    def told(self, farm: Farm) -> ModelHealth:
        return farm.worker._health.told(farm.sessions.loaded())[0].health

    def test_a_model_that_answered_nobody_lately_is_run(self, farm: Farm) -> None:
        engine = self.loaded(farm)
        farm.skipped_s += PROBE_S
        eventually(lambda: self.told(farm).probes == 1)
        assert engine.batches == [4, 1, 1]
        assert self.told(farm).success_age_ms < 10_000
        assert not farm.ended.is_set()

    def test_one_that_fails_is_loaded_again_and_answers(self, farm: Farm) -> None:
        engine = self.loaded(farm)
        engine.failure = RuntimeError("the memory of a card went bad")
        farm.skipped_s += PROBE_S
        eventually(lambda: len(farm.engines) == 2 and farm.engines[1].active and not engine.active)
        eventually(farm.sessions.loaded)
        told = self.told(farm)
        assert (told.probes, told.failed_probes) == (1, 1)
        assert "the memory of a card went bad" in told.failure
        farm.put("second")
        assert isinstance(farm.get("second"), Done)
        assert self.told(farm).failure == ""
        assert not farm.ended.is_set()

    def test_where_it_cannot_be_loaded_again_the_process_ends(self, farm: Farm) -> None:
        engine = self.loaded(farm)

        def broken(given: Serving) -> Probe:
            made = Probe(given.onnx)
            made.failure = RuntimeError("CUDA failure 700: an illegal memory access was encountered")
            return made

        engine.failure, farm.make = RuntimeError("CUDA failure 700"), broken
        farm.skipped_s += PROBE_S
        assert farm.ended.wait(10)

    def test_where_loading_again_was_of_no_help_the_process_ends(self, farm: Farm) -> None:
        class Sickly(Probe):
            """What it is rehearsed with succeeds."""

            def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
                if len(feeds["image"]) == 1:
                    raise RuntimeError("it fails by itself")
                return super()._infer(feeds)

        self.loaded(farm)
        farm.make = lambda given: Sickly(given.onnx)
        farm.engines[0].failure = RuntimeError("it fails")
        farm.skipped_s += PROBE_S
        eventually(lambda: len(farm.engines) == 2 and farm.sessions.loaded())
        assert not farm.ended.is_set()
        farm.skipped_s += PROBE_S
        assert farm.ended.wait(10)

    def test_no_room_to_load_it_again_ends_nothing(
        self, farm: Farm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = self.loaded(farm)
        good = farm.make
        farm.make = lambda given: (_ for _ in ()).throw(errors.Unavailable("There is no room now."))
        engine.failure = RuntimeError("it fails")
        farm.skipped_s += PROBE_S
        eventually(lambda: "it cannot be loaded now" in caplog.text)
        farm.make = good
        farm.put("second")
        assert isinstance(farm.get("second"), Done)
        assert not farm.ended.is_set()

    def test_samples_that_are_damaged_are_told_and_change_nothing(
        self, farm: Farm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.loaded(farm)
        damaged = errors.Conflict("The golden samples are damaged.")
        monkeypatch.setattr(Runtime, "spot_check", lambda _: (_ for _ in ()).throw(damaged))
        for times in (1, 2):
            farm.skipped_s += IDLE_S
            eventually(lambda times=times: self.told(farm).failed_probes == times)
        assert "are damaged" in self.told(farm).failure
        assert len(farm.engines) == 1
        assert not farm.ended.is_set()

    def test_what_nothing_is_known_of_is_left_alone(self, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded(farm)
        asked: list[int] = []
        monkeypatch.setattr(Runtime, "spot_check", lambda _: asked.append(1))
        farm.skipped_s += PROBE_S
        eventually(lambda: asked and farm.worker._health._records["m"].asked is False)
        told = self.told(farm)
        assert (told.probes, told.failure) == (0, "")
        assert told.success_age_ms >= PROBE_S * 1000, "only what was shown is a success"

    def test_a_full_queue_does_not_keep_it_waiting(self, farm: Farm) -> None:
        engine, gate = self.loaded(farm), threading.Event()
        engine.gate = gate
        farm.put("runs")
        eventually(lambda: len(engine.batches) == 3)
        for number in range(12):
            farm.put(f"waits-{number}")
        farm.skipped_s += PROBE_S
        eventually(lambda: farm.batcher._reserved)
        gate.set()
        for number in range(12):
            assert isinstance(farm.get(f"waits-{number}"), Done)
        assert engine.batches == [4, 1, 1, 1, 4, 4, 4], "the rehearsal, two requests, the probe, and then who waited"

    def test_long_work_is_no_failure(self, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker, "PLACE_S", 0.01)
        engine, gate = self.loaded(farm), threading.Event()
        engine.gate = gate
        farm.put("long")
        eventually(lambda: len(engine.batches) == 3)
        farm.skipped_s += PROBE_S
        eventually(lambda: farm.worker._health._records["m"].asked is False)
        assert (self.told(farm).probes, self.told(farm).failure) == (0, "")
        gate.set()
        assert isinstance(farm.get("long"), Done)
        assert len(farm.engines) == 1
        assert not farm.ended.is_set()

    def test_a_probe_is_no_use_of_a_model(self, tmp_path: Path) -> None:
        farm = Farm(tmp_path, share=Share(100, 2))
        for name in "abc":
            farm.shelf.put(name)
            farm.sizes[name] = 40
        for name in "ab":
            farm.put(name, name)
            assert isinstance(farm.get(name), Done)
            farm.skipped_s += PROBE_S / 2
        eventually(lambda: [len(engine.batches) for engine in farm.engines] == [3, 2])
        farm.put("c", "c")
        assert isinstance(farm.get("c"), Done)
        assert [one.model_id for one in farm.sessions.loaded()] == ["b", "c"], "a was not asked for longest"
        farm.worker.close()


class TestWorker:
    def test_batches_what_gathers_while_it_computes(self, farm: Farm) -> None:
        gate = threading.Event()
        farm.make = lambda given: Probe(given.onnx, gate)
        farm.put("first")
        eventually(lambda: farm.engines and len(farm.engines[0].batches) == 2)
        for number in range(5):
            farm.put(f"r{number}")
        gate.set()
        assert {farm.get(f"r{number}").batch_size for number in range(4)} == {4}
        assert farm.engines[0].batches == [4, 1, 4, 1]

    def test_one_engine_call_at_a_time(self, tmp_path: Path) -> None:
        farm = Farm(tmp_path, threads=4, at_once=1)
        farm.shelf.put("a")
        farm.shelf.put("b")
        gate = threading.Event()
        farm.make = lambda given: Probe(given.onnx, gate)
        farm.put("1", "a")
        eventually(lambda: farm.engines and len(farm.engines[0].batches) == 2)
        farm.put("2", "b")
        eventually(lambda: farm.sessions.room("b") is not None)
        farm.sessions.refresh()
        assert farm.engines[1].batches == [4]  # loaded and rehearsed, but not running
        gate.set()
        assert isinstance(farm.get("2"), Done)
        farm.worker.close()

    def test_what_waits_beyond_its_deadline_is_refused(self, farm: Farm) -> None:
        gate = threading.Event()
        farm.make = lambda given: Probe(given.onnx, gate)
        farm.put("first")
        eventually(lambda: farm.engines and len(farm.engines[0].batches) == 2)
        farm.put("late")
        farm.skipped_s = 31.0
        assert farm.get("late").code == "deadline_exceeded"
        gate.set()
        assert isinstance(farm.get("first"), Done)

    def test_the_watchdog_is_put_off_only_while_nothing_is_stuck(self, farm: Farm) -> None:
        eventually(lambda: farm.rearmed > 0)
        gate = threading.Event()
        farm.make = lambda given: Probe(given.onnx, gate)
        farm.put("hangs")
        eventually(lambda: farm.engines and len(farm.engines[0].batches) == 2)
        farm.skipped_s = 31.0
        eventually(farm.batcher.stuck)
        before = farm.rearmed
        assert not farm.worker._closing.wait(0.6)  # two rounds of the keeper
        assert farm.rearmed <= before + 1
        gate.set()
        farm.get("hangs")
        eventually(lambda: farm.rearmed > before + 1)

    def test_a_thread_outlives_whatever_happens(
        self, farm: Farm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(Runtime, "present", lambda *_: 1 / 0)
        for number in range(4):
            farm.put(f"bad{number}")
            assert farm.get(f"bad{number}").code == "internal"
        monkeypatch.undo()
        farm.put("good")
        assert isinstance(farm.get("good"), Done)

    def test_closing_ends_the_threads_and_unloads(self, farm: Farm) -> None:
        farm.put("r")
        farm.get("r")
        farm.worker.close()
        assert not any(thread.is_alive() for thread in farm.worker._threads)
        assert not farm.engines[0].active


@pytest.mark.parametrize(("threads", "at_once", "expected"), [(5, 1, 16), (10, 2, 32), (40, 1, 80), (1, 1, 16)])
def test_credit_lets_batches_form_and_keeps_threads_busy(threads: int, at_once: int, expected: int) -> None:
    assert credit(threads, at_once) == expected


def test_equal_servings_are_equal(tmp_path: Path) -> None:
    assert serving("m", tmp_path) == serving("m", tmp_path)
    assert serving("m", tmp_path) != msgspec.structs.replace(serving("m", tmp_path), threads=2)
