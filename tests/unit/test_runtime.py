"""A runtime from file to answer: contract, batches of every shape, JSON in and JSON out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from shared import errors, golden, metadata
from shared.engines.base import Feeds, Tensor
from shared.engines.fake import Fake
from shared.runtime import MAX_NUMBERS, Runtime, Serving
from shared.specs import Preprocessing, Resize, TensorInfo
from tests.onnx_graphs import graph, mean_model

CONTRACT = Preprocessing(resize=Resize(height=8, width=8), mean=(0.5,), scores="probabilities")


def tensor(name: str, *shape: int | str, dtype: str = "float32") -> TensorInfo:
    return TensorInfo(name=name, dtype=dtype, shape=list(shape))


def serving(path: Path, **changes: Any) -> Serving:
    plain = Serving(
        model_id="mdl_1",
        name="mean",
        task_type="classification",
        onnx=path,
        inputs=[tensor("image", "batch", 3, 8, 8)],
        outputs=[tensor("scores", "batch", 3)],
        dynamic_batch=True,
        preprocessing=CONTRACT,
        labels=["red", "green", "blue"],
        scores="logits",
        engine="onnxruntime",
        precision="fp32",
        batch_size=4,
        threads=1,
    )
    return msgspec.structs.replace(plain, **changes)


def ready(given: Serving, **rest: Any) -> Runtime:
    runtime = Runtime(given, **rest)
    runtime.activate()
    return runtime


@pytest.fixture
def mean(tmp_path: Path) -> Path:
    return mean_model(tmp_path / "mean")


class Counting(Fake):
    """Remembers the batch of every call."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.batches: list[int] = []

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        self.batches.append(len(feeds["image"]))
        return super()._infer(feeds)


def png(color: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), color).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(n: int) -> np.ndarray:
    return np.random.default_rng(n).random((n, 3, 8, 8), dtype=np.float32)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_image_to_its_classes(mean: Path, engine: str) -> None:
    runtime = ready(serving(mean, engine=engine))
    feeds = runtime.decode([png((0, 255, 0)), png((255, 255, 0))]).feeds
    answer = json.loads(runtime.present(runtime.infer(feeds), 2, 2, raw_outputs=False))
    assert answer == {
        "predictions": [
            [
                {"class_id": 1, "label": "green", "confidence": 0.5},
                {"class_id": 0, "label": "red", "confidence": -0.5},
            ],
            [
                {"class_id": 0, "label": "red", "confidence": 0.5},
                {"class_id": 1, "label": "green", "confidence": 0.5},
            ],
        ]
    }
    runtime.deactivate()


@pytest.mark.parametrize(("count", "batches"), [(1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])])
def test_many_rows_run_in_batches(mean: Path, count: int, batches: list[int]) -> None:
    engine = Counting(mean)
    runtime = ready(serving(mean), engine=engine)
    assert engine.batches == [4]  # the rehearsal
    given = rows_of(count)
    np.testing.assert_allclose(runtime.infer({"image": given})["scores"], given.mean(axis=(2, 3)), rtol=1e-5)
    assert engine.batches[1:] == batches


@pytest.mark.parametrize("fixed", [1, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_fixed_batch_is_filled_and_cut(tmp_path: Path, fixed: int, count: int, engine: str) -> None:
    path = mean_model(tmp_path / "fixed", batch=fixed)
    runtime = ready(
        serving(
            path,
            engine=engine,
            inputs=[tensor("image", fixed, 3, 8, 8)],
            outputs=[tensor("scores", fixed, 3)],
            dynamic_batch=False,
            batch_size=1,
        )
    )
    assert runtime.batch_size == fixed
    given = rows_of(count)
    scores = runtime.infer({"image": given})["scores"]
    assert scores.shape == (count, 3)
    np.testing.assert_allclose(scores, given.mean(axis=(2, 3)), rtol=1e-5)


def test_no_call_starts_after_the_deadline(mean: Path) -> None:
    runtime = ready(serving(mean))
    with pytest.raises(errors.DeadlineExceeded, match="0 of 9 images"):
        runtime.infer({"image": rows_of(9)}, lambda: True)


def test_outputs_without_rows_come_in_one_piece(tmp_path: Path) -> None:
    path = graph(
        tmp_path / "sum",
        [helper.make_node("ReduceSum", ["image"], ["total"], keepdims=0)],
        {"image": (TensorProto.FLOAT, ["batch", 3, 8, 8])},
        {"total": (TensorProto.FLOAT, [])},
    )
    runtime = ready(serving(path, outputs=[tensor("total")]))
    assert not runtime.splits
    outputs = runtime.infer({"image": np.ones((9, 3, 8, 8), np.float32)})
    assert json.loads(runtime.present(outputs, 9, 5, raw_outputs=False)) == {
        "outputs": {"total": 9 * 3 * 64},
    }


def test_an_input_that_is_not_a_batch(tmp_path: Path) -> None:
    path = graph(
        tmp_path / "scaled",
        [helper.make_node("Mul", ["features", "factor"], ["scores"])],
        {"features": (TensorProto.FLOAT, ["batch", 2]), "factor": (TensorProto.FLOAT, [2])},
        {"scores": (TensorProto.FLOAT, ["batch", 2])},
    )
    infos = [tensor("features", "batch", 2), tensor("factor", 2)]
    runtime = ready(serving(path, inputs=infos, preprocessing=None, batch_size=3))
    assert not runtime.splits
    feeds = runtime.parse_tensors(b'{"features": [[1, 2], [3, 4], [5, 6], [7, 8]], "factor": [1, 10]}')
    assert runtime.infer(feeds)["scores"].tolist() == [[1, 20], [3, 40], [5, 60], [7, 80]]


def test_open_sizes_are_served_without_sharing(tmp_path: Path) -> None:
    path = mean_model(tmp_path / "open", side="side")
    runtime = ready(serving(path, inputs=[tensor("image", "batch", 3, "side", "side")], preprocessing=None))
    assert not runtime.splits
    assert runtime.infer({"image": np.ones((6, 3, 5, 5), np.float32)})["scores"].shape == (6, 3)


class TestActivation:
    def test_a_file_made_for_another_contract_does_not_start(self, mean: Path, tmp_path: Path) -> None:
        changed = msgspec.structs.replace(CONTRACT, mean=(0.4,))
        for inside, served, starts in ((CONTRACT, CONTRACT, True), (changed, CONTRACT, False), (None, CONTRACT, True)):
            with (path := tmp_path / "told.onnx").open("wb") as file:
                metadata.write(mean, file.fileno(), metadata.describing(inside, None))
            if starts:
                ready(serving(path, preprocessing=served))
            else:
                with pytest.raises(errors.BadModel, match=f"contract {changed.hash}.* {CONTRACT.hash}"):
                    ready(serving(path, preprocessing=served))

    def test_refuses_a_contract_that_does_not_fit(self, mean: Path) -> None:
        wrong = msgspec.structs.replace(CONTRACT, layout="NHWC")
        with pytest.raises(errors.BadModel, match=r"\['batch', 8, 8, 3\].*float32 \['batch', 3, 8, 8\]"):
            Runtime(serving(mean, preprocessing=wrong)).activate()

    def test_refuses_a_model_that_loads_and_cannot_run(self, tmp_path: Path) -> None:
        path = graph(
            tmp_path / "one-row",
            [helper.make_node("Add", ["x", "two"], ["y"])],
            {"x": (TensorProto.FLOAT, ["n", 3])},
            {"y": (TensorProto.FLOAT, ["n", 3])},
            {"two": np.ones((2, 3), np.float32)},
        )
        runtime = Runtime(
            serving(path, inputs=[tensor("x", "n", 3)], outputs=[tensor("y", "n", 3)], preprocessing=None)
        )
        with pytest.raises(errors.EngineFailed, match="onnxruntime failed"):
            runtime.activate()
        with pytest.raises(errors.EngineFailed, match="not active"):
            runtime.infer({"x": np.zeros((2, 3), np.float32)})

    def test_an_engine_that_is_not_installed(self, mean: Path) -> None:
        with pytest.raises(errors.EngineUnavailable, match="tensorrt in fp32 cannot run here"):
            Runtime(serving(mean, engine="tensorrt")).activate()


class TestDecode:
    def test_one_bad_image_is_the_requests_fault(self, mean: Path) -> None:
        with pytest.raises(errors.BadImage, match=r"^Image 2 of 2: .*not an image"):
            ready(serving(mean)).decode([png((1, 2, 3)), b"no image"])
        with pytest.raises(errors.BadImage, match=r"^This is not an image"):
            ready(serving(mean)).decode([b"no image"])

    def test_no_image(self, mean: Path) -> None:
        with pytest.raises(errors.BadImage, match="at least one"):
            ready(serving(mean)).decode([])

    def test_the_pixels_of_a_request_are_counted_together(self, mean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        runtime = ready(serving(mean))
        size = Image.open(io.BytesIO(png((1, 2, 3)))).size
        monkeypatch.setattr("shared.runtime.MAX_PIXELS", 3 * size[0] * size[1] - 1)
        runtime.decode([png((1, 2, 3))] * 2)
        with pytest.raises(errors.TooLarge, match="Image 3 of 3"):
            runtime.decode([png((1, 2, 3))] * 3)

    def test_no_image_is_begun_after_the_deadline(self, mean: Path) -> None:
        late = iter([False, False, True])
        with pytest.raises(errors.DeadlineExceeded, match="2 of 4 images"):
            ready(serving(mean)).decode([png((1, 2, 3))] * 4, lambda: next(late))

    def test_a_model_of_tensors(self, mean: Path) -> None:
        with pytest.raises(errors.BadImage, match=r"'image' float32 \[batch, 3, 8, 8\]"):
            ready(serving(mean, preprocessing=None)).decode([png((1, 2, 3))])


class TestParseTensors:
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        path = graph(
            tmp_path / "relu",
            [helper.make_node("Relu", ["x"], ["y"])],
            {"x": (TensorProto.FLOAT, ["n", 2])},
            {"y": (TensorProto.FLOAT, ["n", 2])},
        )
        return ready(serving(path, inputs=[tensor("x", "n", 2)], outputs=[tensor("y", "n", 2)], preprocessing=None))

    @pytest.mark.parametrize("body", ["[[1, 2.5], [3, 4]]", '{"x": [[1, 2.5], [3, 4]]}'])
    def test_both_forms(self, runtime: Runtime, body: str) -> None:
        array = runtime.parse_tensors(body.encode())["x"]
        assert array.dtype == np.float32
        assert array.tolist() == [[1, 2.5], [3, 4]]

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ("", "not JSON"),
            ("[[1, 2]", "not JSON"),
            ("[[NaN, 2]]", "not JSON"),
            ("[[1e999, 2]]", "out of range"),
            ("[" * 100_000, "as nested lists of numbers"),
            ('{"y": [[1, 2]]}', "takes 'x' float32 [n, 2]; given 'y'"),
            ("{}", "takes 'x'"),
            ("[[1, 2], [3]]", "float32 [n, 2], as nested lists of numbers; the lists given are ragged"),
            ("[[1, null]]", "got `null`"),
            ('[["NaN", "1"]]', "got `str`"),
            ('["' + "x" * 100_000 + '", 0, 0]', "as nested lists of numbers"),
            ("[[true, false]]", "got `bool`"),
            ('[[{"a": 1}, 2]]', "got `object`"),
            ("[[1e300, 2]]", "do not fit that type"),
            ("[[1, 2, 3]]", "must be float32 [n, 2]; given float32 [1, 3]"),
            ("[1, 2]", "Expected `array`"),
            ("7", "Expected `array`"),
            ("[]", "float32"),
            ("null", "got `null`"),
            ("[" * 70 + "1" + "]" * 70, "x"),
        ],
    )
    def test_refusals_say_what_is_expected(self, runtime: Runtime, body: str, says: str) -> None:
        with pytest.raises(errors.BadTensor) as refused:
            runtime.parse_tensors(body.encode())
        assert says in refused.value.message

    def test_a_refusal_repeats_few_names_and_little_of_them(self, runtime: Runtime) -> None:
        many = {"n" * 10_000 + str(number): [1] for number in range(1000)}
        with pytest.raises(errors.BadTensor, match=r"given 'nnn.* and 990 more") as refused:
            runtime.parse_tensors(json.dumps(many).encode())
        assert len(refused.value.message) < 2000

    def test_names_that_are_no_text_are_not_json(self, runtime: Runtime) -> None:
        with pytest.raises(errors.BadTensor, match="not JSON"):
            runtime.parse_tensors(b'{"\xff": [[1, 2]]}')

    @settings(max_examples=150, deadline=None)
    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2),
            max_leaves=8,
        )
    )
    def test_any_json_is_taken_or_refused(self, value: object) -> None:
        runtime = Runtime(serving(Path("none"), inputs=[tensor("x", "n", 2, dtype="uint8")], preprocessing=None))
        try:
            array = runtime.parse_tensors(json.dumps(value).encode())["x"]
        except errors.BadTensor:
            return
        assert array.shape[1:] == (2,)
        expected = value["x"] if isinstance(value, dict) else value
        assert array.tolist() == expected

    @pytest.mark.parametrize(
        ("dtype", "body"), [("uint8", "[[256]]"), ("uint8", "[[-1]]"), ("int64", "[[1.5]]"), ("bool", "[[1]]")]
    )
    def test_integers_and_booleans_are_not_bent(self, dtype: str, body: str) -> None:
        runtime = Runtime(serving(Path("none"), inputs=[tensor("x", "n", 1, dtype=dtype)], preprocessing=None))
        with pytest.raises(errors.BadTensor):
            runtime.parse_tensors(body.encode())

    def test_too_many_numbers(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shared.runtime.MAX_NUMBERS", 10)
        with pytest.raises(errors.TooLarge, match="At most 10 numbers"):
            runtime.parse_tensors(b"[[1, 2], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2]]")

    def test_inputs_of_different_length(self, tmp_path: Path) -> None:
        path = graph(
            tmp_path / "two",
            [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Relu", ["b"], ["z"])],
            {"a": (TensorProto.FLOAT, ["n", 1]), "b": (TensorProto.FLOAT, ["m", 1])},
            {"y": (TensorProto.FLOAT, ["n", 1]), "z": (TensorProto.FLOAT, ["m", 1])},
        )
        infos, outs = [tensor("a", "n", 1), tensor("b", "m", 1)], [tensor("y", "n", 1), tensor("z", "m", 1)]
        runtime = ready(serving(path, inputs=infos, outputs=outs, preprocessing=None))
        with pytest.raises(errors.BadTensor, match="same number of rows"):
            runtime.parse_tensors(b'{"a": [[1], [2]], "b": [[1]]}')


class TestPresent:
    @pytest.fixture
    def runtime(self) -> Runtime:
        return Runtime(serving(Path("none")))

    def test_raw_outputs_on_demand(self, runtime: Runtime) -> None:
        outputs = {"scores": np.array([[0.25, 0.75]], np.float32), "extra": np.array([[1, 2]])}
        answer = json.loads(runtime.present(outputs, 1, 1, raw_outputs=True))
        assert answer["predictions"] == [[{"class_id": 1, "label": "green", "confidence": 0.75}]]
        assert answer["outputs"] == {"scores": [[0.25, 0.75]], "extra": [[1, 2]]}

    def test_raw_outputs_beyond_memory(self, runtime: Runtime) -> None:
        wide = np.broadcast_to(np.float32(0), (1, MAX_NUMBERS + 1))
        assert json.loads(runtime.present({"scores": wide}, 1, 1, raw_outputs=False))["predictions"]
        with pytest.raises(errors.TooLarge, match="8,000,001 numbers; at most 8,000,000"):
            runtime.present({"scores": wide}, 1, 1, raw_outputs=True)

    @pytest.mark.parametrize("task", ["detection", "classification"])
    def test_raw_outputs_where_nothing_decodes(self, task: str) -> None:
        runtime = Runtime(serving(Path("none"), task_type=task))
        maps = np.zeros((2, 3, 1), np.float32)
        assert json.loads(runtime.present({"scores": maps}, 2, 5, raw_outputs=False)) == {
            "outputs": {"scores": [[[0.0]] * 3] * 2},
        }

    @pytest.mark.parametrize(("kind", "second"), [("logits", 0.689974), ("probabilities", 0.9)])
    def test_a_model_without_a_contract_never_changes_what_its_scores_are(self, kind: str, second: float) -> None:
        runtime = Runtime(serving(Path("none"), preprocessing=None, scores=kind))
        for scores, best in (([[0.5, 0.5]], 0.5), ([[0.1, 0.9]], second)):
            answer = json.loads(runtime.present({"scores": np.array(scores)}, 1, 1, raw_outputs=False))
            assert answer["predictions"][0][0]["confidence"] == best

    @pytest.mark.parametrize("raw", [True, False])
    def test_nan_is_never_shown(self, runtime: Runtime, raw: bool) -> None:
        with pytest.raises(errors.BadOutput, match="NaN"):
            runtime.present({"scores": np.array([[np.nan, 1.0]])}, 1, 5, raw_outputs=raw)


def test_calls_are_spread_over_the_sessions(mean: Path) -> None:
    runtime = ready(serving(mean, instances=2))
    first, second = runtime._sessions
    asked = []
    rows = {"image": np.zeros((1, 3, 8, 8), np.float32)}

    def meanwhile(feeds: Any) -> Any:
        asked.append("first")
        if len(asked) == 1:
            runtime.infer(rows)  # another call comes while this one is under way
        return {"scores": np.zeros((1, 3), np.float32)}

    first.infer = meanwhile
    second.infer = lambda feeds: asked.append("second") or {"scores": np.zeros((1, 3), np.float32)}
    runtime.infer(rows)
    assert asked == ["first", "second"]
    runtime.deactivate()


def test_golden_samples_that_are_gone_stop_it(mean: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.BadModel, match="golden samples are gone"):
        ready(serving(mean, golden=tmp_path / "nowhere"))


@pytest.mark.parametrize("change", [{"dtype": "float31"}, {"shape": [7, 7]}, {"data": b"odd"}, {"data": "nan"}])
def test_damaged_golden_samples_are_said_to_be(mean: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    rows = {"image": np.zeros((2, 3, 8, 8), np.float32)}
    runtime = ready(serving(mean))
    answers = runtime.infer(rows)
    runtime.deactivate()
    record = msgspec.msgpack.decode(golden.write("onnxruntime", "fp32", "synthetic", rows, answers))
    for array in record["outputs"].values():
        array.update({"data": b"\xff" * len(array["data"])} if change == {"data": "nan"} else change)
    samples = tmp_path / "golden"
    samples.write_bytes(msgspec.msgpack.encode(record))
    with pytest.raises(errors.Conflict, match="damaged"):
        ready(serving(mean, golden=samples))


def test_other_answers_than_those_of_the_golden_samples_stop_it(mean: Path, tmp_path: Path) -> None:
    rows = {"image": np.zeros((2, 3, 8, 8), np.float32)}
    runtime = ready(serving(mean))
    answers = runtime.infer(rows)
    runtime.deactivate()
    samples = tmp_path / "golden"
    samples.write_bytes(golden.write("onnxruntime", "fp32", "synthetic", rows, answers))
    ready(serving(mean, golden=samples)).deactivate()
    other = {name: array + np.float32(1) for name, array in answers.items()}
    samples.write_bytes(golden.write("onnxruntime", "fp32", "synthetic", rows, other))
    with pytest.raises(errors.BadOutput, match="differ by up to 1 from those at the benchmark"):
        ready(serving(mean, golden=samples))


def test_a_spot_check_answers_the_golden_samples_again(mean: Path, tmp_path: Path) -> None:
    engine, samples = Counting(mean), tmp_path / "golden"
    rows = {"image": rows_of(6)}
    answers = {"scores": rows["image"].mean(axis=(2, 3))}
    samples.write_bytes(golden.write("onnxruntime", "fp32", "synthetic", rows, answers))
    runtime = ready(serving(mean, golden=samples), engine=engine)
    assert runtime.spot_check()
    assert engine.batches == [4, 4, 2, 4], "the rehearsal, the replay, and this: no more than a batch"
    other = {"scores": answers["scores"] + np.float32(1)}
    samples.write_bytes(golden.write("onnxruntime", "fp32", "synthetic", rows, other))
    with pytest.raises(errors.BadOutput, match="differ by up to 1"):
        runtime.spot_check()


def test_a_spot_check_without_samples_is_one_call_of_as_little_as_it_takes(mean: Path) -> None:
    engine = Counting(mean)
    runtime = ready(serving(mean), engine=engine)
    assert runtime.spot_check()
    assert engine.batches == [4, 1]
    engine.failure = RuntimeError("broken")
    with pytest.raises(errors.EngineFailed):
        runtime.spot_check()


def test_where_a_size_is_open_there_is_nothing_to_check(mean: Path) -> None:
    engine = Counting(mean)
    given = serving(mean, inputs=[tensor("image", "batch", 3, "side", "side")], preprocessing=None)
    runtime = ready(given, engine=engine)
    assert not runtime.spot_check()
    assert engine.batches == []
