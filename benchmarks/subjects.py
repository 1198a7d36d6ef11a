"""What is served when servers are compared: the models, the bodies that are sent, and the answers that are right.

Everything comes from seeds, but for the scans that one of them has learned; files are made once and kept in
`build/serve`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import datasets, models, photographs
from benchmarks.limit import OursInside
from benchmarks.peers.model import NULL_SHAPE, Model
from benchmarks.run import Platform, platform
from shared import metadata
from shared.specs import Preprocessing, Resize

FOLDER = Path(__file__).parents[1] / "build" / "serve"
NULL, SMALL, LARGE, TRAINED = "null", "mobilenet_v3_small", "resnet50", "resnet18_digits"
BODIES = 64
SURE = 3.0
"""Standard deviation of the logits: the answers then differ from image to image, and by more than rounding."""
APART = 0.02
"""A right answer's confidence differs by no more: decoders and engines round differently."""
CERTAIN = 0.9
"""Confidence of the trained model in what is sent to it, at least."""
LEARNS = "resnet18"
"""The smallest of torchvision's ResNets: its network, which INT8 is for, costs many times what the decode of an image
costs, and yet it learns within minutes on two cores."""
LESSONS: tuple[dict[str, Any], ...] = (
    {"max_epochs": 8, "hyperparams": {"image_size": 96, "augmentation": "light"}},
    {"max_epochs": 2, "hyperparams": {"image_size": 224, "augmentation": "light", "learning_rate": 3e-4}},
)
"""Trainings in turn: most of it at a size that costs a fifth, then at the size that is served. Variations are light,
since a mirror would make a digit another."""
LEARNED = 0.95
"""Share of right answers on its part val; with fewer it is no example of a trained model."""
TRAINED_WITHIN_S = 3600.0


class Subject(NamedTuple):
    """A model to serve, with what to send and what has to come back."""

    name: str
    path: Path
    bodies: Sequence[bytes]
    truth: Sequence[dict[str, Any]]
    """What `Model.answer` gives for each body."""
    prepared: Sequence[dict[str, Any]]
    """The same, of images prepared as the platform prepares them."""

    @property
    def contract(self) -> Preprocessing | None:
        """None where the body is the tensor."""
        beside = self.path.with_suffix(".json")
        return msgspec.json.decode(beside.read_bytes(), type=Preprocessing) if beside.exists() else None

    @property
    def images(self) -> Path | None:
        """Labelled images of which some were held out from its training, as a dataset to upload; None where the model
        has learned nothing, so that nothing tells what INT8 costs.
        """
        beside = self.path.with_suffix(".zip")
        return beside if beside.exists() else None

    def right(self, number: int, answer: dict[str, Any], *, gated: bool = False, inside: bool = False) -> bool:
        """Whether it is the answer to that body.

        Args:
            number: Which one was sent.
            answer: As `Model.answer` gives it.
            gated: It was computed in INT8 or from a JPEG decoded smaller, which moves confidences: the class has to be
                that of FP32 all the same, for what is sent to a trained model is what FP32 is certain of. What that
                costs where FP32 wavers, the platform has judged by the true classes of the held-out images.
            inside: The platform prepared the image, some samples a step of 255 from Pillow's. A trained model hardly
                moves for it, but one whose weights were drawn makes much of a step: what is right is what the bare loop
                says of the same tensor.
        """
        expected = (self.prepared if inside and not gated else self.truth)[number]
        if "outputs" in expected:
            return bool(np.allclose(answer.get("outputs", np.nan), expected["outputs"], rtol=1e-5))
        best, given = expected["predictions"][0], answer["predictions"][0]
        near = gated or abs(best["confidence"] - given["confidence"]) <= APART
        return bool(best["class_id"] == given["class_id"] and near)


def subject(name: str, bodies: int = BODIES) -> Subject:
    """One of `NULL`, `SMALL`, `LARGE` and `TRAINED`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.onnx"
    if not path.exists():
        print(f"making {path.relative_to(FOLDER.parents[1])}", flush=True)
        {NULL: _make_null, TRAINED: _make_trained}.get(name, _make_network)(path)
    model = Model(path)
    if name == TRAINED:
        sent = _certain(model, photographs.held_out(path.with_suffix(".zip")), bodies)
    else:
        sent = [pixels(seed) if name == NULL else photographs.photograph(seed) for seed in range(bodies)]
    inside = OursInside(path)
    return Subject(name, path, sent, [model.answer(body) for body in sent], [inside.answer(body) for body in sent])


def _certain(model: Model, images: Sequence[bytes], most: int) -> list[bytes]:
    """The first images of whose class the model is certain."""
    certain = (image for image in images if model.answer(image)["predictions"][0]["confidence"] >= CERTAIN)
    return list(islice(certain, most))


def pixels(seed: int) -> bytes:
    """768 bytes."""
    return np.random.default_rng(seed).integers(0, 256, NULL_SHAPE, np.uint8).tobytes()


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
    images = torch.from_numpy(np.stack([prepare(photographs.photograph(1000 + seed)) for seed in range(8)]))
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


def _make_trained(path: Path) -> None:
    """A network that learned real scans on a platform of its own, as a user has it learn; and the images beside it.

    Raises:
        SystemExit: It has not learned them.
    """
    import torch

    from shared.nets.architectures import build

    images = path.with_suffix(".zip")
    photographs.write_scans(images)
    with tempfile.TemporaryDirectory() as folder, platform() as running:
        start = Path(folder) / f"{LEARNS}.pth"
        torch.save(build(LEARNS).module.state_dict(), start)
        model_id = running.ready(running.upload(start, architecture=LEARNS))
        dataset_id = datasets.ready(running, images)
        for lesson in LESSONS:
            done = _trained(running, lesson | {"model_id": model_id, "dataset_id": dataset_id})
            model_id, reached = str(done["result_model_id"]), done["final_accuracy"]
            told = f"{reached:.1%} of {photographs.VAL} scans after {done['duration_s']:.0f} s"
            print(f"  {LEARNS} at {done['hyperparams']['image_size']} pixels recognises {told}", flush=True)
        if reached < LEARNED:
            raise SystemExit(f"{LEARNS} should recognise {LEARNED:.0%} of them.")
        onnx_file = running.http.get(f"/models/{model_id}/onnx").raise_for_status().content
    made = path.with_suffix(".part")
    made.write_bytes(onnx_file)
    contract = metadata.contract_in(metadata.read(made))
    assert contract is not None
    path.with_suffix(".json").write_bytes(msgspec.json.encode(contract))
    made.rename(path)


def _trained(running: Platform, order: dict[str, Any]) -> dict[str, Any]:
    """The job of a training, completed."""
    answer = running.http.post("/training", json=order).raise_for_status()
    return running.wait(
        f"/training/{answer.json()['id']}", lambda body: body["status"] == "completed", TRAINED_WITHIN_S
    )
