"""Model files as users have them, in every format, generated from seeds; with what their source itself answers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from shared import config
from shared.specs import Preprocessing, Resize, Task
from shared.vision.preprocess import preprocess

ROOT = Path(__file__).parents[1]
SEED = 0
FOUND_CLASS = 2
"""What the generated detectors find: the one class whose scores are raised, so that there are boxes at all."""
FOUND_SHARE = 0.002
"""Of the 8,400 cells: they say that they see it."""
KERAS_CONTRACT = Preprocessing(resize=Resize(height=224, width=224), layout="NHWC", scores="probabilities")
KERAS_WITHIN_S = 300


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file to upload, and what the network in it gives for the photograph."""

    name: str
    path: Path
    task_type: Task = "classification"
    fields: dict[str, str] = {}
    """More of the form."""
    output: npt.NDArray[np.float32]
    """Of the source itself, in its own framework: `[1, ...]`."""


def photograph() -> Image.Image:
    """A real one, 640 x 427, which scikit-learn ships."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg"))


def of_pytorch(folder: Path, image: Image.Image) -> list[Callable[[], Source]]:
    """What makes each file in turn: the presets' architectures, then networks as their libraries build them."""
    import timm
    import torch
    import torchvision
    from safetensors import torch as tensors

    from shared.nets.architectures import build

    def save(content: object, path: Path) -> None:
        torch.save(content, path)

    def safetensors(module: Any, path: Path) -> None:
        tensors.save_file(module.state_dict(), path)

    def state(module: Any, path: Path) -> None:
        save(module.state_dict(), path)

    def program(module: Any, path: Path) -> None:
        side = 224
        torch.export.save(torch.export.export(module, (torch.zeros(1, 3, side, side),)), path)

    def checkpoint(module: Any, path: Path) -> None:
        """As its trainer leaves it: half precision, behind a `model.`, with names and much else."""
        weights = {f"model.{name}": value.half() for name, value in module.state_dict().items()}
        names = {index: f"thing {index}" for index in range(80)}
        save({"epoch": -1, "best_fitness": 0.5, "model": weights, "optimizer": None, "names": names}, path)

    def source(
        name: str, architecture: str, write: Callable[[Any, Path], None], made: Callable[[], Any] | None = None
    ) -> Callable[[], Source]:
        def make() -> Source:
            known = build(architecture).architecture
            assert known is not None
            torch.manual_seed(SEED)
            module = made() if made else build(architecture).module
            contract = known.preprocessing
            given = torch.from_numpy(preprocess(image, contract)[None])
            liven(module, torch.cat([given, torch.randn_like(given)]))
            if known.task == "detection":
                let_find(module, given)
            if write is checkpoint:
                module.half().float()
            path = folder / name
            write(module.eval(), path)
            with torch.no_grad():
                output = module(given).numpy()
            return Source(
                name=name, path=path, task_type=known.task, fields={"architecture": architecture}, output=output
            )

        return make

    return [
        source("yolov8n.safetensors", "yolov8n", safetensors),
        source("yolov8s.pt", "yolov8s", state),
        source("resnet50.pth", "resnet50", state),
        source("efficientnet_b0.pt2", "efficientnet_b0", program),
        source("cnn32.pt", "cnn32", save),
        source(
            "torchvision mobilenet_v3_small.pth",
            "mobilenet_v3_small",
            state,
            torchvision.models.mobilenet_v3_small,
        ),
        source("timm resnet18.safetensors", "timm/resnet18", safetensors, lambda: timm.create_model("resnet18")),
        source("timm convnext_atto.pth", "timm/convnext_atto", state, lambda: timm.create_model("convnext_atto")),
        source("YOLOv8 checkpoint.pt", "yolov8n", checkpoint),
    ]


def liven(module: Any, images: Any) -> None:
    """As after training: normalisations that scale and shift, and statistics of what passes through them.

    Without these their operators would be folded away, and what comes out would be too small to compare.
    """
    import torch

    norms = [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    module.eval()
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.8, 1.2)
            norm.bias.normal_(0, 0.1)
            norm.train()
            norm.momentum = 1.0
        module(images)
    module.eval()


def let_find(detector: Any, given: Any) -> None:
    """Raise the scores of one class until some cells see it in this image."""
    import torch

    with torch.no_grad():
        scores = detector(given)[0, 4 + FOUND_CLASS].logit()
        raise_by = -torch.quantile(scores, 1 - FOUND_SHARE)
        for branch in detector.model[-1].cv3:
            branch[-1].bias[FOUND_CLASS] += raise_by


def of_keras(folder: Path, image: Image.Image) -> list[Source]:
    """Three networks of `keras.applications`, each in another format; made in the environment of TensorFlow.

    Raises:
        SystemExit: They could not be made.
    """
    np.save(folder / "photograph.npy", preprocess(image, KERAS_CONTRACT)[None])
    command = [str(config.tensorflow_python()), "-m", "benchmarks.keras_sources", str(folder)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0", "KERAS_HOME": str(folder)}
    done = subprocess.run(
        command,
        env=os.environ | quiet | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=KERAS_WITHIN_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"Keras files could not be made:\n{done.stderr[-3000:]}")
    fields: Mapping[str, str] = {"preprocessing": msgspec.json.encode(KERAS_CONTRACT).decode()}
    return [
        Source(name=path.name, path=path, fields=dict(fields), output=np.load(path.with_suffix(".npy")))
        for path in sorted(folder.glob("keras *.*"))
        if path.suffix != ".npy"
    ]
