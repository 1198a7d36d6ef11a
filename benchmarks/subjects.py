"""What is served when servers are compared: the models, the bodies that are sent, and the answers that are right.

Everything comes from seeds; files are made once and kept in `build/serve`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks import models
from benchmarks.peers.model import NULL_SHAPE, Model
from shared.specs import Preprocessing, Resize

FOLDER = Path(__file__).parents[1] / "build" / "serve"
NULL, SMALL, LARGE = "null", "mobilenet_v3_small", "resnet50"
BODIES = 64
SIZE = (640, 480)
QUALITY = 92
SURE = 3.0
"""Standard deviation of the logits: the answers then differ from image to image, and by more than rounding."""
APART = 0.02
"""A right answer's confidence differs by no more: decoders and engines round differently."""


class Subject(NamedTuple):
    """A model to serve, with what to send and what has to come back."""

    name: str
    path: Path
    bodies: Sequence[bytes]
    truth: Sequence[dict[str, Any]]
    """What `Model.answer` gives for each body."""

    @property
    def contract(self) -> Preprocessing | None:
        """None where the body is the tensor."""
        beside = self.path.with_suffix(".json")
        return msgspec.json.decode(beside.read_bytes(), type=Preprocessing) if beside.exists() else None

    def right(self, number: int, answer: dict[str, Any]) -> bool:
        """Whether it is the answer to that body."""
        truth = self.truth[number]
        if "outputs" in truth:
            return bool(np.allclose(answer.get("outputs", np.nan), truth["outputs"], rtol=1e-5))
        best, given = truth["predictions"][0], answer["predictions"][0]
        return bool(best["class_id"] == given["class_id"] and abs(best["confidence"] - given["confidence"]) <= APART)


def subject(name: str, bodies: int = BODIES) -> Subject:
    """One of `NULL`, `SMALL` and `LARGE`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.onnx"
    if not path.exists():
        print(f"making {path.relative_to(FOLDER.parents[1])}", flush=True)
        _make_null(path) if name == NULL else _make_network(path)
    sent = [pixels(seed) if name == NULL else photograph(seed) for seed in range(bodies)]
    model = Model(path)
    return Subject(name, path, sent, [model.answer(body) for body in sent])


def pixels(seed: int) -> bytes:
    """768 bytes."""
    return np.random.default_rng(seed).integers(0, 256, NULL_SHAPE, np.uint8).tobytes()


def photograph(seed: int) -> bytes:
    """A JPEG of 640 x 480 and some 55 KB, drawn at every scale from the whole to a few pixels, as photographs are."""
    draw = np.random.default_rng(seed)
    canvas = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for cells in (2, 4, 8, 16, 32, 64, 160):
        noise = draw.standard_normal((cells * 3 // 4 or 1, cells, 3)).astype(np.float32)
        planes = [Image.fromarray(noise[..., plane]).resize(SIZE, Image.Resampling.BICUBIC) for plane in range(3)]
        canvas += np.stack([np.asarray(plane) for plane in planes], axis=-1) * (40 / (1 + cells / 16))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(canvas + 128, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def null_contract() -> Preprocessing:
    """The null model's, for who sends it an image: pixels as they are."""
    _, height, width = NULL_SHAPE
    return Preprocessing(resize=Resize(height=height, width=width), scale=1.0, dtype="uint8")


def _make_null(path: Path) -> None:
    """The mean over the pixels, of bytes: what is left is the server's own cost."""
    shape = ["n", *NULL_SHAPE]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["scores"], keepdims=0),
        ],
        "null",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(models.SPATIAL, "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def _make_network(path: Path) -> None:
    """One of torchvision's with seeded weights, exported as an upload of its weights is."""
    import torch

    from benchmarks.sources import liven
    from shared.nets.architectures import build
    from shared.nets.export import export

    net = build(path.stem)
    assert net.architecture is not None
    contract = net.architecture.preprocessing
    path.with_suffix(".json").write_bytes(msgspec.json.encode(contract))
    # A session is not needed to prepare the images.
    prepare = Model(path, run=lambda batch: batch).tensor
    images = torch.from_numpy(np.stack([prepare(photograph(1000 + seed)) for seed in range(8)]))
    torch.manual_seed(0)
    liven(net.module, images)
    head = [part for part in net.module.modules() if isinstance(part, torch.nn.Linear)][-1]
    with torch.no_grad():
        logits = net.module(images)
        head.bias -= logits.mean(0)
        scale = SURE / (logits - logits.mean(0)).std()
        head.weight *= scale
        head.bias *= scale
    made = path.with_suffix(".part")
    made.write_bytes(export(net).onnx)
    made.rename(path)
