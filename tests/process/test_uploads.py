"""Files of PyTorch, TensorFlow and ONNX through the public API to predictions, or to the sentence that refuses them."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from PIL import Image

from shared import config, metadata
from tests.conftest import needs
from tests.process.platform import DIGITS, Platform, settled

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

READY_S = 180.0
CATS = ["cat", "dog", "owl"]
Made = dict[str, Any]


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[httpx.Client]:
    with platform.login() as client:
        yield client


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def upload(client: httpx.Client, content: bytes, task: str = "classification", **fields: object) -> Made:
    """The model once it is ready or has failed."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    answer = client.post("/models", data={"name": "m", "task_type": task, **texts}, files={"file": ("m", content)})
    assert answer.status_code == 202, answer.text
    return settled(client, f"/models/{answer.json()['id']}", READY_S)


def picture(width: int = 500, height: int = 300) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def predict(client: httpx.Client, model: Made, **options: object) -> list[Made]:
    """What is in one image."""
    answer = client.post(
        "/inference/predict",
        params={"model_id": model["id"], **options},
        content=picture(),
        headers={"Content-Type": "image/jpeg"},
    )
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["predictions"]
    return list(found)


def stored(client: httpx.Client, model: Made) -> onnx.ModelProto:
    return onnx.load_model_from_string(client.get(f"/models/{model['id']}/onnx").content)


def pairs_of(model: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in model.metadata_props}


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def saved(content: Any) -> bytes:
    torch = needs("torch")
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def module(name: str, num_classes: int | None = None) -> Any:
    needs("torch")
    from shared.nets.architectures import build

    return build(name, num_classes).module


@pytest.mark.parametrize(
    ("name", "side", "mode"), [("resnet18", 224, "shorter_side"), ("timm/test_vit", 160, "shorter_side")]
)
def test_a_state_dict_becomes_predictions(client: httpx.Client, name: str, side: int, mode: str):
    made = upload(client, saved(module(name, 5).state_dict()), architecture=name)
    assert (made["status"], made["error"]) == ("ready", None)
    assert (made["framework"], made["architecture"], made["trainable"], made["why_not"]) == (
        "pytorch",
        name,
        True,
        None,
    )
    assert made["input_shape"] == ["batch", 3, side, side]
    assert made["preprocessing"]["resize"]["mode"] == mode
    facts = made["conversion"]
    assert [each["batch"] for each in facts["parity"]] == [1, 2, 8]
    assert max(each["max_abs_diff"] for each in facts["parity"]) < 1e-4
    assert (facts["source"], facts["dynamic_batch"]) == ("PyTorch checkpoint", True)
    assert facts["peak_memory_mb"] > 100
    assert len(predict(client, made)) == 5
    inside = pairs_of(stored(client, made))
    assert inside[metadata.CONTRACT_HASH] == made["preprocessing"]["hash"]
    assert metadata.LABELS not in inside


def test_a_whole_module_gives_its_weights_and_the_names_of_its_classes(client: httpx.Client):
    net = module("cnn32", 3)
    net.names = dict(enumerate(CATS))
    content = saved({"epoch": 3, "model": net})
    made = upload(client, content, architecture="cnn32")
    assert (made["status"], made["labels"]) == ("ready", CATS)
    assert {each["label"] for each in predict(client, made)} == set(CATS)
    assert json.loads(pairs_of(stored(client, made))[metadata.LABELS]) == CATS
    named = upload(client, content, architecture="cnn32", labels=["a", "b", "c"])
    assert named["labels"] == ["a", "b", "c"]


def test_yolov8_weights_become_boxes_in_the_pixels_of_the_image(client: httpx.Client):
    torch = needs("torch")
    safetensors = needs("safetensors.torch")
    net = module("yolov8n", 3)
    with torch.no_grad():  # untrained it finds nothing, this one its second class everywhere
        for branch in net.model[-1].cv3:
            branch[-1].bias[1] = 4.0
    made = upload(
        client,
        safetensors.save(net.state_dict()),
        "detection",
        architecture="yolov8n",
        labels=CATS,
        input_shape=[1, 3, 320, 320],
    )
    assert (made["status"], made["error"]) == ("ready", None)
    assert made["input_shape"] == ["batch", 3, 320, 320]
    assert made["preprocessing"]["detection"]["format"] == "yolo"
    found = predict(client, made)
    assert found
    assert {each["label"] for each in found} == {"dog"}
    for each in found:
        x1, y1, x2, y2 = each["box"]
        assert 0 <= x1 < x2 <= 500
        assert 0 <= y1 < y2 <= 300
    assert max(each["box"][2] for each in found) > 320  # not in those of the network's input


def test_weights_that_fit_one_known_network_need_no_architecture(client: httpx.Client):
    made = upload(client, saved(module("cnn32", 3).state_dict()))
    assert (made["status"], made["architecture"], made["trainable"]) == ("ready", "cnn32", True)
    assert "taken for cnn32" in made["notes"][0]
    assert client.get(f"/jobs/{made['job_id']}").json()["status"] == "completed"


def test_the_owner_is_told_what_to_send(client: httpx.Client):
    state, yolo = saved(module("cnn32", 3).state_dict()), saved(module("yolov8n", 3).state_dict())
    without_bias = saved({key: value for key, value in module("cnn32", 3).state_dict().items() if "bias" not in key})
    for content, fields, said in (
        (without_bias, {}, "Upload it again with `architecture`, the network's name."),
        (state, {"architecture": "resnet18"}, "They fit architecture=cnn32."),
        (state, {"architecture": "resnet"}, "There is no architecture 'resnet'. Did you mean"),
        (
            state,
            {"architecture": "cnn32", "labels": ["a"]},
            "The head in the file has 3 classes, not 1; give it as many labels.",
        ),
        (yolo, {"architecture": "yolov8n"}, "Upload it again with task_type=detection."),
        (state[: len(state) // 2], {"architecture": "cnn32"}, "The archive cannot be read"),
    ):
        made = upload(client, content, **fields)
        assert made["status"] == "failed"
        assert said in made["error"]
        assert made["why_not"] == "It was not converted."
        assert client.get(f"/models/{made['id']}").json()["file_size"] == len(content)


def test_a_pickle_is_never_run(client: httpx.Client, platform: Platform):
    touched = platform.data_dir / "touched"
    for content in (saved({"weight": Payload(touched)}), saved(Payload(touched))):
        made = upload(client, content, architecture="cnn32")
        assert made["status"] == "failed"
        assert "was not opened" in made["error"]
    answer = client.post(
        "/models",
        data={"name": "m", "task_type": "classification"},
        files={"file": ("m.pt", pickle.dumps(Payload(touched)))},
    )
    assert answer.status_code == 415
    assert not touched.exists()


# --- TensorFlow -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = config.tensorflow_python()
    if python is None:
        assert os.environ.get("CI") != "true", config.NO_TENSORFLOW
        pytest.skip(config.NO_TENSORFLOW)
    folder = tmp_path_factory.mktemp("keras")
    (folder / "made").mkdir()
    command = [python, "-m", "tests.process.tensorflow_files", folder / "made", folder / "ran"]
    environment = os.environ | {"PYTHONPATH": str(config.HOME), "KERAS_HOME": str(folder / "keras")}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder / "made"


def test_a_keras_file_becomes_predictions(client: httpx.Client, keras_files: Path):
    made = upload(client, (keras_files / "cnn.keras").read_bytes(), labels=[*"abcde"])
    assert (made["status"], made["framework"], made["error"]) == ("ready", "tensorflow", None)
    assert made["conversion"]["source"] == "Keras archive"
    assert max(each["max_abs_diff"] for each in made["conversion"]["parity"]) < 1e-4
    assert (made["trainable"], made["why_not"].split(";")[0]) == (
        False,
        "A TensorFlow or Keras model is a finished graph",
    )
    assert {each["label"] for each in predict(client, made)} == set("abcde")
    broken = upload(client, (keras_files / "cnn.keras").read_bytes()[:-1000])
    assert broken["status"] == "failed"
    assert broken["error"]


# --- ONNX -------------------------------------------------------------------------------------------------------------


def test_an_onnx_file_carries_its_contract_to_the_next_platform(client: httpx.Client):
    contract, labels = (json.loads((DIGITS / name).read_text()) for name in ("preprocessing.json", "labels.json"))
    content = (DIGITS / "digits.onnx").read_bytes()
    first = upload(client, content, preprocessing=contract, labels=labels)
    kept = client.get(f"/models/{first['id']}/onnx").content
    assert pairs_of(onnx.load_model_from_string(kept))[metadata.CONTRACT_HASH] == first["preprocessing"]["hash"]
    assert first["file_size"] == len(content) != first["onnx_size"] == len(kept)
    again = upload(client, kept)
    assert (again["labels"], again["preprocessing"], again["notes"]) == (labels, first["preprocessing"], first["notes"])
    assert again["onnx_size"] == len(kept)
    changed = upload(client, kept, preprocessing=contract | {"mean": [0.5]})
    assert changed["preprocessing"]["hash"] != first["preprocessing"]["hash"]
    assert pairs_of(stored(client, changed))[metadata.CONTRACT_HASH] == changed["preprocessing"]["hash"]
