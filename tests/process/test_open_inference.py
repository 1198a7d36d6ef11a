"""The Open Inference Protocol, spoken by NVIDIA's own client to a whole platform."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.onnx_graphs import graph
from tests.process.platform import Platform, photograph, running, settled, upload_digits, wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}
DIGITS = np.random.default_rng(5).random((3, 1, 8, 8), np.float32)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running(PREPARERS="1", INFERENCE_WORKERS="2") as up:
        wait_for(up.ready, what="readiness")
        yield up


class Client:
    """NVIDIA's, which takes a header with every call, and writes into it."""

    def __init__(self, platform: Platform, key: str) -> None:
        self._client = triton.InferenceServerClient(platform.url.removeprefix("http://"), concurrency=4)
        self._key = key

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **options: getattr(self._client, name)(
            *given, headers={"X-API-Key": self._key}, **options
        )

    def refusal(self, *given: Any, **options: Any) -> tuple[str, str]:
        """Status and sentence of an inference that is refused."""
        with pytest.raises(InferenceServerException) as refused:
            self.infer(*given, **options)
        return refused.value.status(), refused.value.message()


@pytest.fixture(scope="module")
def client(platform: Platform, admin: httpx.Client) -> Iterator[Client]:
    made = Client(platform, admin.post("/auth/api-keys", json={"name": "triton"}).json()["key"])
    yield made
    made._client.close()


@pytest.fixture(scope="module")
def digits(admin: httpx.Client) -> str:
    return upload_digits(admin, "the digits")


@pytest.fixture(scope="module")
def echo(admin: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An input and an output of every datatype: the output is the input."""
    path = graph(
        tmp_path_factory.mktemp("echo") / "echo.onnx",
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in KINDS],
        {f"in_{name}": (kind, ["batch", 2]) for name, kind in KINDS.items()},
        {f"out_{name}": (kind, ["batch", 2]) for name, kind in KINDS.items()},
    )
    answer = admin.post(
        "/models",
        data={"name": "echo", "task_type": "classification"},
        files={"file": ("echo.onnx", path.read_bytes())},
    )
    model = settled(admin, f"/models/{answer.raise_for_status().json()['id']}")
    assert model["status"] == "ready", model["error"]
    return "echo"


def given(name: str, values: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values, binary_data=binary)


def values_of(datatype: str, rows: int) -> np.ndarray:
    dtype = triton._infer_input.triton_to_np_dtype(datatype)
    return np.random.default_rng(rows).integers(0, 2 if datatype == "BOOL" else 100, (rows, 2)).astype(dtype)


def test_server_and_models_are_described(client: Client, digits: str, echo: str) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    for name in (digits, "the digits"):
        assert client.is_model_ready(name) and client.is_model_ready(name, "1") and not client.is_model_ready(name, "2")
        assert client.get_model_metadata(name) == client.get_model_metadata(name, "1")
    told = client.get_model_metadata(echo)
    assert {(one["name"], one["datatype"], *one["shape"]) for one in told["inputs"]} == {
        (f"in_{name}", name, -1, 2) for name in KINDS
    }
    assert not client.is_model_ready("nobody")


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_every_datatype_there_and_back(client: Client, echo: str, there: bool, back: bool) -> None:
    values = {name: values_of(name, 3) for name in KINDS}
    inputs = [given(f"in_{name}", array, binary=there) for name, array in values.items()]
    outputs = [triton.InferRequestedOutput(f"out_{name}", binary_data=back) for name in KINDS]
    answer = client.infer(echo, inputs, outputs=outputs)
    for name, array in values.items():
        np.testing.assert_array_equal(answer.as_numpy(f"out_{name}"), array, strict=True)


def test_only_what_was_asked_for(client: Client, echo: str) -> None:
    inputs = [given(f"in_{name}", values_of(name, 1)) for name in KINDS]
    outputs = [triton.InferRequestedOutput("out_INT8"), triton.InferRequestedOutput("out_FP16", binary_data=False)]
    answer = client.infer(echo, inputs, outputs=outputs, request_id="7").get_response()
    assert answer["id"] == "7"
    assert [(one["name"], "data" in one) for one in answer["outputs"]] == [("out_INT8", False), ("out_FP16", True)]


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_it_says_what_predict_says(client: Client, admin: httpx.Client, digits: str, packed: str | None) -> None:
    body = {"model_id": digits, "inputs": DIGITS.tolist(), "outputs": True}
    said = admin.post("/inference/predict", json=body).json()["outputs"]["logits"]
    asked = {"request_compression_algorithm": packed, "response_compression_algorithm": packed}
    answer = client.infer("the digits", [given("image", DIGITS)], **asked)
    np.testing.assert_allclose(answer.as_numpy("logits"), said, rtol=1e-6)


def test_image_files_as_bytes(client: Client, admin: httpx.Client, digits: str) -> None:
    image = photograph()
    files = [("image", ("a.jpg", image))]
    said = admin.post("/inference/predict", data={"model_id": digits, "outputs": "true"}, files=files).json()
    answer = client.infer(digits, [given("image", np.array([image, image], np.object_))])
    np.testing.assert_allclose(answer.as_numpy("logits"), said["outputs"]["logits"] * 2, rtol=1e-6)


def test_many_at_once_get_their_own(client: Client, digits: str) -> None:
    alone = client.infer(digits, [given("image", DIGITS)]).as_numpy("logits")
    asked = [client.async_infer(digits, [given("image", DIGITS[place % 3 : place % 3 + 1])]) for place in range(60)]
    for place, one in enumerate(asked):
        np.testing.assert_allclose(one.get_result().as_numpy("logits"), alone[place % 3 : place % 3 + 1], rtol=1e-5)


def test_refusals_are_sentences_with_their_status(platform: Platform, client: Client, digits: str) -> None:
    good = given("image", DIGITS)
    doubles = given("image", DIGITS.astype(np.float64))
    assert client.refusal(digits, [doubles]) == (
        "400",
        "Input 'image' must be FP32 [-1, 1, 8, 8]; given FP64 [3, 1, 8, 8].",
    )
    assert client.refusal(digits, [given("image", DIGITS[0])])[0] == "400"
    assert client.refusal(digits, [good, good]) == ("400", "Input 'image' is given twice.")
    assert client.refusal(digits, [given("picture", DIGITS)])[0] == "400"
    assert client.refusal(digits, [good], outputs=[triton.InferRequestedOutput("no")])[0] == "400"
    assert "labels" in client.refusal(digits, [good], outputs=[triton.InferRequestedOutput("logits", class_count=2)])[1]
    assert "Sequences" in client.refusal(digits, [good], sequence_id=1)[1]
    shared = triton.InferInput("image", [1, 1, 8, 8], "FP32").set_shared_memory("region", 256)
    assert "Shared memory" in client.refusal(digits, [shared])[1]
    assert "not an image" in client.refusal(digits, [given("image", np.array([b"no"], np.object_))])[1]
    assert client.refusal("nobody", [good])[0] == "404"
    assert client.refusal(digits, [good], "2")[0] == "404"
    with pytest.raises(InferenceServerException, match="shared memory"):
        client.register_system_shared_memory("region", "/region", 256)
    assert Client(platform, "").refusal(digits, [good])[0] == "401"
    assert client.infer(digits, [good]).as_numpy("logits").shape == (3, 10)


LIES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a size": ({"parameters": {"binary_data_size": 10**9}}, {}),
    "a shape": ({"shape": [2**31 - 1] * 4, "parameters": {"binary_data_size": 768}}, {}),
    "negative": ({"shape": [-3, 1, 8, 8], "parameters": {"binary_data_size": 768}}, {}),
    "a head": ({"parameters": {"binary_data_size": 768}}, {"Inference-Header-Content-Length": "99999999"}),
    "half a head": ({"parameters": {"binary_data_size": 768}}, {"Inference-Header-Content-Length": "20"}),
    "images": ({"datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": 768}}, {}),
}


def test_lies_are_refused_and_hurt_nobody(platform: Platform, client: Client, digits: str) -> None:
    def lie(case: str) -> int:
        changes, headers = LIES[case]
        tensor = {"name": "image", "datatype": "FP32", "shape": [3, 1, 8, 8], **changes}
        text = httpx.Request("POST", "http://x", json={"inputs": [tensor]}).content
        told = {"X-API-Key": client._key, "Inference-Header-Content-Length": str(len(text)), **headers}
        url = f"{platform.url}/v2/models/{digits}/infer"
        return httpx.post(url, content=text + DIGITS.tobytes(), headers=told, timeout=30).status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lie, list(LIES) * 5)) == {400}
    assert client.infer(digits, [given("image", DIGITS)]).as_numpy("logits").shape == (3, 10)
    logs = [path for path in Path(platform.data_dir / "logs").glob("*") if "Traceback" in path.read_text()]
    assert logs == []
