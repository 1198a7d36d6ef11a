"""The Open Inference Protocol: what passes the gateway, what is refused, and tensors to arrays and back."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gateway import bodies
from gateway.routes import predict
from inferencer import tensors
from inferencer.batcher import Batcher, Request
from inferencer.compute import answer
from shared import errors
from shared.db import connection
from shared.db.tables import Model
from shared.engines.base import Feeds, Tensor
from shared.engines.fake import Fake
from shared.runtime import Runtime
from shared.specs import Preprocessing, Resize, TensorInfo
from shared.wire import open_inference
from shared.wire.messages import Assign, Done, Failed
from tests.unit.gateway_kit import Gateway, ready_model
from tests.unit.test_inferencer import png, serving

X = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
HEAD_LENGTH = "Inference-Header-Content-Length"


def head(**changes: Any) -> dict[str, Any]:
    return {"inputs": [X | {"data": [1.0, 2.0]}]} | changes


def binary(**changes: Any) -> dict[str, Any]:
    return {"inputs": [X | {"parameters": {"binary_data_size": 8}}]} | changes


# --- the gateway ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model_id(gateway: Gateway) -> str:
    made = ready_model(gateway)
    gateway.refresh()
    return made


def infer(gateway: Gateway, said: Any, rest: bytes = b"", name: str = "digits", **headers: str) -> httpx.Response:
    """One inference; the length of the head is told where something follows it."""
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    told = {HEAD_LENGTH: str(len(text))} if rest else {}
    return gateway.post(f"/v2/models/{name}/infer", "viewer", content=text + rest, headers=told | headers)


def refused(response: httpx.Response, status: int = 400) -> str:
    """The sentence of a refusal, which has the form of the protocol."""
    assert (response.status_code, list(response.json())) == (status, ["error"]), response.text
    return str(response.json()["error"])


def test_json_passes_and_comes_back(gateway: Gateway, model_id: str) -> None:
    said = head(id="mine", parameters={"timeout": 2_500_000})
    assert infer(gateway, said).json() == {
        "model_name": "digits",
        "model_version": "1",
        "id": "mine",
        "outputs": gateway.broker.outputs,
    }
    [(submit, blobs)] = gateway.broker.submitted
    assert (submit.model_id, submit.form, submit.rows) == (model_id, "raw", 1)
    assert (submit.queue_ttl_ms, submit.inference_ttl_ms) == (2500, 30_000)
    assert blobs == [json.dumps(said).encode(), b""]


def test_binary_data_pass_unopened(gateway: Gateway, model_id: str) -> None:
    gateway.broker.outputs = [{"name": "y", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}}]
    gateway.broker.binary = b"\1\2"
    response = infer(gateway, binary(), b"12345678", name=f"{model_id}/versions/1")
    length = int(response.headers[HEAD_LENGTH])
    assert response.content[length:] == b"\1\2"
    assert json.loads(response.content[:length])["outputs"] == gateway.broker.outputs
    assert "id" not in json.loads(response.content[:length])
    [(_, blobs)] = gateway.broker.submitted
    assert blobs == [json.dumps(binary()).encode(), b"12345678"]


def test_it_counts_as_a_prediction(gateway: Gateway, model_id: str) -> None:
    before, failed = gateway.context.tally.predictions, gateway.context.tally.prediction_errors["invalid"]
    infer(gateway, head())
    infer(gateway, b"{")
    tally = gateway.context.tally
    assert (tally.predictions, tally.prediction_errors["invalid"]) == (before + 2, failed + 1)


WRONG: dict[str, tuple[Any, bytes, str]] = {
    "nothing": (b"", b"", "JSON of the request cannot be read"),
    "no JSON": (b"{", b"", "JSON of the request cannot be read"),
    "deep": (b'{"inputs": [{"data": ' + b"[" * 100_000, b"", "nested too deeply"),
    "NaN": (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', b"", "cannot be read"),
    "half a character": (b'{"id": "\\ud800"}', b"", "cannot be read"),
    "true for one": (head(inputs=[X | {"shape": [True, 2], "data": [1, 2]}]), b"", "not true or false"),
    "a list": ([], b"", "must be an object"),
    "no inputs": ({}, b"", "`inputs`: required"),
    "an empty list": (head(inputs=[]), b"", "a list of 1 to 128 values"),
    "too many": (head(inputs=[X] * 129), b"", "a list of 1 to 128 values"),
    "twice": (head(inputs=[X | {"data": [1, 2]}] * 2), b"", "Input 'x' is given twice"),
    "output twice": (head(outputs=[{"name": "y"}] * 2), b"", "Output 'y' is given twice"),
    "negative": (head(inputs=[X | {"shape": [-1, 2], "data": [1, 2]}]), b"", "from 1 to 2147483647"),
    "empty axis": (head(inputs=[X | {"shape": [0, 2], "data": []}]), b"", "from 1 to 2147483647"),
    "huge": (head(inputs=[X | {"shape": [10**30], "data": [1]}]), b"", "from 1 to 2147483647"),
    "many axes": (head(inputs=[X | {"shape": [1] * 33, "data": [1]}]), b"", "at most 32 values"),
    "half an axis": (head(inputs=[X | {"shape": [1.5], "data": [1]}]), b"", "a whole number"),
    "BF16": (head(inputs=[X | {"datatype": "BF16", "data": [1, 2]}]), b"", "one of BOOL, BYTES, FP16"),
    "no values": (head(inputs=[X]), b"", "one of the two"),
    "both": (head(inputs=[X | {"data": [1, 2], "parameters": {"binary_data_size": 8}}]), b"12345678", "one of the two"),
    "too short": (binary(), b"1234567", "say 8 bytes of `binary_data_size` in all, and 7 follow"),
    "too long": (binary(), b"123456789", "say 8 bytes of `binary_data_size` in all, and 9 follow"),
    "nothing follows": (binary(), b"", "and 0 follow"),
    "negative size": (head(inputs=[X | {"parameters": {"binary_data_size": -8}}]), b"12345678", "from 0 to"),
    "shared memory": (head(inputs=[X | {"parameters": {"shared_memory_region": "a"}}]), b"", "Shared memory"),
    "into shared memory": (
        head(outputs=[{"name": "y", "parameters": {"shared_memory_region": "a"}}]),
        b"",
        "Shared memory",
    ),
    "classification": (head(outputs=[{"name": "y", "parameters": {"classification": 3}}]), b"", "classification"),
    "a sequence": (head(parameters={"sequence_id": "a"}), b"", "Sequences"),
    "a priority": (head(parameters={"priority": 1}), b"", "no priorities"),
}


@pytest.mark.parametrize("case", WRONG)
def test_heads_that_do_not_fit(gateway: Gateway, model_id: str, case: str) -> None:
    said, rest, sentence = WRONG[case]
    told = refused(infer(gateway, said, rest))
    assert sentence in told
    assert "earlier call" not in told
    assert gateway.broker.submitted == []


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "٣", "9" * 5000, "1000"])
def test_lengths_that_lie(gateway: Gateway, model_id: str, length: str) -> None:
    told = {HEAD_LENGTH: length.encode()}
    answer = gateway.post("/v2/models/digits/infer", "viewer", content=json.dumps(head()), headers=told)
    sentence = refused(answer)
    assert "must be the length of the JSON" in sentence
    assert "give each call its own" in sentence


def test_a_length_that_cuts_the_json(gateway: Gateway, model_id: str) -> None:
    sentence = refused(infer(gateway, binary(), b"12345678", **{HEAD_LENGTH: "5"}))
    assert "cannot be read" in sentence
    assert "says that it has 5 bytes" in sentence
    assert "give each call its own" in sentence


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed(gateway: Gateway, model_id: str, name: str, pack: Any) -> None:
    text = json.dumps(binary()).encode()
    told = {HEAD_LENGTH: str(len(text)), "Content-Encoding": name}
    packed = pack(text + b"12345678")
    assert infer(gateway, packed, **told).status_code == 200
    assert gateway.broker.submitted[0][1] == [text, b"12345678"]
    assert "not complete" in refused(infer(gateway, packed[:-3], **told))
    assert "follows" in refused(infer(gateway, packed + b"more", **told))
    assert f"not {name}" in refused(infer(gateway, b"no" + packed, **told))
    assert "not complete" in refused(infer(gateway, b"", **told))


def test_a_compressed_bomb_stops_at_the_limit(gateway: Gateway, model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "BODY_BYTES", 3 * 2**20)
    pieces: list[int] = []
    kept = bodies.zlib.decompressobj

    class Counted:
        def __init__(self, window: int) -> None:
            self.inflate = kept(window)

        def decompress(self, chunk: bytes, most: int) -> bytes:
            piece = self.inflate.decompress(chunk, most)
            pieces.append(len(piece))
            return piece

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inflate, name)

    monkeypatch.setattr(bodies.zlib, "decompressobj", Counted)
    told = {"Content-Encoding": "gzip"}
    assert "3 MiB" in refused(infer(gateway, gzip.compress(bytes(50 * 2**20)), **told), 413)
    assert pieces == [2**20] * 4
    refused(infer(gateway, b"", **{"Content-Encoding": "br"}), 415)
    refused(infer(gateway, b" " * (3 * 2**20 + 1)), 413)


def test_by_id_or_by_a_name_that_one_has(gateway: Gateway, model_id: str) -> None:
    other = ready_model(gateway, "two words")
    assert infer(gateway, head(), name="two%20words").json()["model_name"] == "two words", (
        "it became ready this instant"
    )
    ready_model(gateway, "digits", b"other bytes")
    gateway.refresh()
    assert model_id in refused(infer(gateway, head()), 409)
    assert infer(gateway, head(), name=model_id).status_code == 200
    assert [submit.model_id for submit, _ in gateway.broker.submitted] == [other, model_id]
    assert "'nobody'" in refused(infer(gateway, head(), name="nobody"), 404)
    assert "version 1" in refused(infer(gateway, head(), name=f"{model_id}/versions/2"), 404)
    with connection.write():
        Model.update(status="converting").where(Model.id == model_id).execute()
    gateway.context.caches.models.pop(model_id)
    assert "converting" in refused(infer(gateway, head(), name=model_id), 409)


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (errors.BadTensor("no"), 400),
        (errors.PoisonRequest("no"), 400),
        (errors.QueueFull("no", retry_after_s=3), 429),
        (errors.Unavailable("no", retry_after_s=3), 503),
        (errors.DeadlineExceeded("no", retry_after_s=3), 504),
    ],
)
def test_failures_from_behind(gateway: Gateway, model_id: str, failure: errors.AppError, status: int) -> None:
    gateway.broker.failure = failure
    response = infer(gateway, head())
    assert refused(response, status) == "no"
    assert response.headers.get("retry-after") == (None if status == 400 else "3")


def test_what_a_client_asks_first(gateway: Gateway, model_id: str) -> None:
    assert gateway.get("/v2", "viewer").json() == {
        "name": "cv-platform",
        "version": "0.1.0",
        "extensions": ["binary_tensor_data"],
    }
    for name in ("digits", model_id, "digits/versions/1"):
        assert gateway.get(f"/v2/models/{name}", "viewer").json() == {
            "name": name.partition("/")[0],
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
        }
        assert gateway.get(f"/v2/models/{name}/ready", "viewer").json()["ready"] is True
    assert gateway.get("/v2/health/live", None).json() == {"live": True}
    assert gateway.get("/v2/health/ready", None).json() == {"ready": True}
    gateway.broker.alive = False
    assert "broker" in refused(gateway.get("/v2/health/ready", None), 503)
    assert "broker" in refused(gateway.get("/v2/models/digits/ready", "viewer"), 503)
    assert "broker" in refused(infer(gateway, head()), 503)


def test_other_paths_and_methods_are_refused_in_the_protocol_s_form(gateway: Gateway) -> None:
    assert "shared memory" in refused(gateway.post("/v2/systemsharedmemory/region/a/register"), 404)
    assert "POST" in refused(gateway.get("/v2/models/digits/infer"), 405)
    assert "X-API-Key" in refused(gateway.get("/v2", None), 401)
    assert gateway.get("/v20").json()["code"] == "not_found"


# --- the inference process --------------------------------------------------------------------------------------------

CONTRACT = Preprocessing(resize=Resize(height=8, width=8), scores="probabilities")


class Echo(Fake):
    """Gives back what it takes, under the same names."""

    def __init__(self, path: Path, infos: list[TensorInfo]) -> None:
        super().__init__(path)
        self.infos, self.batches = infos, []

    def _activate(self) -> Any:
        return super()._activate()._replace(inputs=self.infos, outputs=self.infos)

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        self.batches.append(len(next(iter(feeds.values()))))
        return dict(feeds)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("echo") / "model"
    path.touch()
    return path


def echo(file: Path, *infos: TensorInfo, batch_size: int = 4, **changes: Any) -> Runtime:
    told = {"inputs": list(infos), "outputs": list(infos), "preprocessing": None} | changes
    given = msgspec.structs.replace(serving("m", file, batch_size), **told)
    runtime = Runtime(given, engine=Echo(file, list(infos)))
    runtime.activate()
    return runtime


def info(name: str, dtype: str = "float32", *shape: int | str) -> TensorInfo:
    return TensorInfo(name=name, dtype=dtype, shape=list(shape or ("batch", 2)))


def read(runtime: Runtime, said: dict[str, Any], rest: bytes = b"") -> dict[str, Tensor]:
    return tensors.read(runtime, open_inference.decode(json.dumps(said).encode()), memoryview(rest))


FINITE = {"allow_nan": False, "allow_infinity": False}
SOME = arrays.array_shapes(min_dims=2, max_dims=3, max_side=3)
ANY = st.sampled_from(sorted(open_inference.DTYPES)).flatmap(
    lambda name: (
        arrays.arrays(open_inference.DTYPES[name], SOME, elements={"allow_nan": False, "allow_infinity": False})
        if name.startswith("FP")
        else arrays.arrays(open_inference.DTYPES[name], SOME)
    )
)


@given(array=ANY, as_json=st.sampled_from(["no", "flat", "nested"]), json_back=st.booleans())
def test_every_datatype_there_and_back(file: Path, array: Tensor, as_json: str, json_back: bool) -> None:
    known = info("x", array.dtype.name, "batch", *array.shape[1:])
    runtime = echo(file, known)
    datatype = open_inference.datatype(known)
    tensor: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": list(array.shape)}
    rest = b""
    if as_json == "no":
        rest = array.astype(array.dtype.newbyteorder("<")).tobytes()
        tensor["parameters"] = {"binary_data_size": len(rest)}
    else:
        tensor["data"] = (array if as_json == "nested" else array.ravel()).tolist()
    feeds = read(runtime, {"inputs": [tensor]}, rest)
    np.testing.assert_array_equal(feeds["x"], array, strict=True)
    listed, values = tensors.write(runtime.infer(feeds), {"x": not json_back})
    [told] = json.loads(listed)
    assert (told["datatype"], told["shape"]) == (datatype, list(array.shape))
    if json_back:
        assert values == b"" and "parameters" not in told
        np.testing.assert_array_equal(np.array(told["data"], array.dtype).reshape(array.shape), array)
    else:
        assert told["parameters"] == {"binary_data_size": len(values)} and "data" not in told
        np.testing.assert_array_equal(np.frombuffer(values, array.dtype).reshape(array.shape), array)


def test_binary_data_of_several_inputs_belong_to_their_inputs(file: Path) -> None:
    runtime = echo(file, info("a", "int8"), info("b"), info("c", "bool"))
    said = {
        "inputs": [
            {"name": "c", "datatype": "BOOL", "shape": [1, 2], "parameters": {"binary_data_size": 2}},
            {"name": "b", "datatype": "FP32", "shape": [1, 2], "data": [[0.5, 1.5]]},
            {"name": "a", "datatype": "INT8", "shape": [1, 2], "parameters": {"binary_data_size": 2}},
        ]
    }
    feeds = read(runtime, said, b"\0\1\5\xff")
    assert {name: array.tolist() for name, array in feeds.items()} == {
        "a": [[5, -1]],
        "b": [[0.5, 1.5]],
        "c": [[False, True]],
    }
    listed, values = tensors.write(runtime.infer(feeds), {"c": True, "a": True, "b": False})
    assert [one["name"] for one in json.loads(listed)] == ["c", "a", "b"]
    assert values == b"\0\1\5\xff"


def raw(datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


MISFITS: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "other name": (X | {"name": "z", "data": [1, 2]}, b"", "takes 'x' FP32 [-1, 2]; given 'z'"),
    "other datatype": (X | {"datatype": "FP64", "data": [1, 2]}, b"", "must be FP32 [-1, 2]; given FP64 [1, 2]"),
    "fewer axes": (X | {"shape": [2], "data": [1, 2]}, b"", "must be FP32 [-1, 2]; given FP32 [2]"),
    "another length": (X | {"shape": [1, 3], "data": [1, 2, 3]}, b"", "must be FP32 [-1, 2]; given FP32 [1, 3]"),
    "too few": (X | {"data": [1]}, b"", "must be 2 numbers"),
    "too many": (X | {"data": [1, 2, 3]}, b"", "must be 2 numbers"),
    "none": (X | {"data": []}, b"", "must be 2 numbers"),
    "nested otherwise": (X | {"data": [[1], [2]]}, b"", "must be 2 numbers"),
    "text": (X | {"data": ["a", "b"]}, b"", "must be float32 [batch, 2]"),
    "not a list": (X | {"data": {"a": 1, "b": 2}}, b"", "must be float32 [batch, 2]"),
    "true for one": (X | {"data": [True, False]}, b"", "must be float32 [batch, 2]"),
    "beyond the type": (X | {"data": [1, 1e300]}, b"", "do not fit"),
    "fewer bytes": (raw("FP32", [1, 2], 7), bytes(7), "takes 8 bytes; given 7"),
    "more bytes": (raw("FP32", [1, 2], 9), bytes(9), "takes 8 bytes; given 9"),
    "the size of a continent": (raw("FP32", [2**31 - 1, 2], 8), bytes(8), "bytes; given 8"),
    "BYTES for numbers": (raw("BYTES", [1], 5), b"\1\0\0\0a", "must be FP32 [-1, 2]; given BYTES [1]"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_tensors_that_do_not_fit(file: Path, case: str) -> None:
    tensor, rest, sentence = MISFITS[case]
    with pytest.raises(errors.BadTensor) as refused:
        read(echo(file, info("x")), {"inputs": [tensor]}, rest)
    assert sentence in refused.value.message


def test_numbers_beyond_all_are_refused_and_nan_passes_as_bytes_alone(file: Path) -> None:
    runtime = echo(file, info("x"))
    with pytest.raises(errors.BadTensor):
        tensors.read(
            runtime, open_inference.decode(json.dumps(head()).replace("2.0", "1e400").encode()), memoryview(b"")
        )
    odd = np.array([[np.nan, -np.inf], [5e-324, -0.0]], np.float32).tobytes()
    outputs = runtime.infer(read(runtime, {"inputs": [raw("FP32", [2, 2], 16)]}, odd))
    assert tensors.write(outputs, {"x": True})[1] == odd
    with pytest.raises(errors.BadOutput):
        tensors.write(outputs, {"x": False})


def test_more_refusals(file: Path) -> None:
    runtime = echo(file, info("x"), info("y"))
    one = {"inputs": [X | {"data": [1, 2]}]}
    with pytest.raises(errors.BadTensor, match="given 'x'"):
        read(runtime, one)
    rows = {"inputs": [X | {"data": [1, 2]}, X | {"name": "y", "shape": [2, 2], "data": [1, 2, 3, 4]}]}
    with pytest.raises(errors.BadTensor, match="float32"):
        read(runtime, rows)
    with pytest.raises(errors.BadTensor, match="no output 'z'; it gives 'x'"):
        read(echo(file, info("x")), one | {"outputs": [{"name": "z"}]})
    with pytest.raises(errors.BadTensor, match="0 or 1"):
        read(echo(file, info("x", "bool")), {"inputs": [raw("BOOL", [1, 2], 2)]}, b"\0\2")
    with pytest.raises(errors.TooLarge, match="binary"):
        read(echo(file, info("x")), {"inputs": [X | {"shape": [4_000_001, 2], "data": [1]}]})
    with pytest.raises(errors.TooLarge, match="binary"):
        tensors.write({"y": np.zeros(8_000_001, np.int8)}, {"y": False})
    with pytest.raises(errors.TooLarge, match="fewer rows"):
        tensors.write({"y": np.zeros(2**26 + 1, np.int8)}, {"y": True})


def texts(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def images(file: Path) -> Runtime:
    return echo(file, info("x", "float32", "batch", 3, 8, 8), preprocessing=CONTRACT)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_bytes_are_image_files(file: Path, shape: list[int]) -> None:
    rest = texts(png(51), png(255))
    feeds = read(images(file), {"inputs": [raw("BYTES", shape, len(rest))]}, rest)
    np.testing.assert_array_equal(feeds["x"], images(file).decode([png(51), png(255)]).feeds["x"])


@pytest.mark.parametrize(
    ("shape", "images"), [([], 1), ([5], 5), ([1, 64], 64), ([2, 3, 4], 24), ([2**31 - 1] * 9, 2**31 - 1)]
)
def test_each_image_file_counts_however_they_are_arranged(shape: list[int], images: int) -> None:
    said = {"inputs": [raw("BYTES", shape, 8)]}
    assert open_inference.decode(json.dumps(said).encode()).rows == images


@pytest.mark.parametrize(
    "rest",
    [
        texts(b"a", b"b", b"c"),
        texts(b"a"),
        texts(b"a", b"b") + b"x",
        texts(b"a", b"b")[:-1],
        texts(b"a") + b"\xff\xff\xff\xffb",
        texts(b"a") + b"\5\0\0\0",
        b"",
    ],
)
def test_bytes_whose_lengths_lie(file: Path, rest: bytes) -> None:
    with pytest.raises(errors.BadTensor, match=r"cut off|not that many"):
        read(images(file), {"inputs": [raw("BYTES", [2], len(rest))]}, rest)


def test_images_that_are_none_or_too_many(file: Path) -> None:
    with pytest.raises(errors.BadImage):
        read(images(file), {"inputs": [raw("BYTES", [1], 8)]}, texts(b"junk"))
    with pytest.raises(errors.TooLarge):
        read(images(file), {"inputs": [raw("BYTES", [65], 8)]}, texts(b"junk"))
    with pytest.raises(errors.BadTensor, match="binary"):
        read(images(file), {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"]}]})


def request(name: str, said: dict[str, Any], rest: bytes = b"", rows: int = 1) -> Request:
    given = Assign(request_id=name, model_id="m", form="raw", ttl_ms=30_000, waited_ms=0.0, rows=rows)
    return Request(given, [json.dumps(said).encode(), rest], 0.0)


def test_requests_share_a_call_and_get_their_own_rows(file: Path) -> None:
    runtime = echo(file, info("x"))
    engine: Any = runtime._sessions[0]
    engine.batches.clear()
    asked = [
        request("one", {"inputs": [X | {"data": [1, 2]}]}),
        request("two", {"inputs": [raw("FP32", [2, 2], 16)], "outputs": [{"name": "x"}]}, bytes(16)),
        request("bad", {"inputs": [X | {"data": [1]}]}),
    ]
    got = {one.message.request_id: one for one in answer(runtime, asked, lambda: 0.001)}
    assert engine.batches == [3]
    assert json.loads(got["one"].blobs[0])[0]["data"] == [1, 2]
    assert json.loads(got["two"].blobs[0])[0]["data"] == [0] * 4
    assert isinstance(got["bad"].message, Failed) and got["bad"].message.code == "bad_tensor"


def test_a_batch_of_a_client_counts_as_its_rows() -> None:
    batcher = Batcher(1, lambda _: 4, lambda: 0.0)
    for name, rows in (("a", 3), ("b", 2), ("c", 9), ("d", 1)):
        asked = request(name, {}, rows=rows)
        batcher.put(asked.assign, asked.blobs)
    cut = []
    while (batch := batcher.take(0.0)) is not None:
        cut.append([one.assign.request_id for one in batch.requests])
        batcher.finished(batch)
    assert cut == [["a"], ["b"], ["c"], ["d"]]


def test_a_batch_over_the_engine_s_is_done_in_parts(file: Path) -> None:
    runtime = echo(file, info("x"))
    engine: Any = runtime._sessions[0]
    engine.batches.clear()
    values = np.arange(20, dtype=np.float32)
    said = {"inputs": [raw("FP32", [10, 2], 80)], "parameters": {"binary_data_output": True}}
    [got] = answer(runtime, [request("r", said, values.tobytes(), rows=10)], lambda: 0.001)
    assert isinstance(got.message, Done) and got.message.batch_size == 10
    assert got.blobs[1] == values.tobytes()
    assert engine.batches == [4, 4, 2]
