"""The shipped example: contract, labels, images and network agree, and the network reads what it never saw."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from shared.specs import Preprocessing

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "digits"
HELD_OUT = sorted((FOLDER / "held-out").glob("*.png"))


@pytest.fixture(scope="module")
def contract() -> Preprocessing:
    return msgspec.json.decode((FOLDER / "preprocessing.json").read_bytes(), type=Preprocessing)


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(FOLDER / "digits.onnx", providers=["CPUExecutionProvider"])


def tensor(path: Path, contract: Preprocessing) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.mode, image.size) == (contract.color, (contract.resize.width, contract.resize.height))
        pixels = np.asarray(image)
    return ((pixels * contract.scale - contract.mean[0]) / contract.std[0]).astype(np.float32)[None]


def test_the_model_fits_the_contract(contract: Preprocessing, session: onnxruntime.InferenceSession) -> None:
    labels = msgspec.json.decode((FOLDER / "labels.json").read_bytes(), type=list[str])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.shape, given.type) == (["batch", 1, contract.resize.height, contract.resize.width], "tensor(float)")
    assert (contract.layout, contract.dtype, contract.scores) == ("NCHW", "float32", "logits")
    assert answer.shape == ["batch", len(labels)]
    assert labels == list("0123456789")


def test_one_small_file_that_names_no_machine() -> None:
    path = FOLDER / "digits.onnx"
    assert path.stat().st_size < 100_000
    assert b"site-packages" not in path.read_bytes()
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(weight.external_data for weight in model.graph.initializer)


def test_it_reads_the_held_out_digits(contract: Preprocessing, session: onnxruntime.InferenceSession) -> None:
    truth = [int(path.stem.rpartition("-")[2]) for path in HELD_OUT]
    assert sorted(truth) == sorted([*range(10)] * 2)
    batch = np.stack([tensor(path, contract) for path in HELD_OUT])
    (logits,) = session.run(None, {"image": batch})
    right = int((logits.argmax(1) == truth).sum())
    assert right >= 19, f"{right} of 20"
