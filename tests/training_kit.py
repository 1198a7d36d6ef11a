"""Small trainings: a dataset of a few colours, a network of eight pixels a side, and the child that trains it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from benchmarks import shapes
from shared import child, nursery
from shared.specs import EpochFigures, HyperParameters, Preprocessing, Resize, TrainingResult, TrainingSpec
from tests.dataset_kit import Checked, Content, check_here, zipped
from trainer import Trained, TrainOrder

SIDE = 8
LABELS = ["blue", "red"]
CONTRACT = Preprocessing(resize=Resize(height=SIDE, width=SIDE), mean=(0.5,), std=(0.5,))
LIMITS = child.Limits(wall_s=90, memory_mb=8192, file_mb=64)
PER_CLASS = 24


def coloured(label: str, seed: int) -> bytes:
    """Noise with more of one colour in it; not every image can be told."""
    pixels = np.random.default_rng(seed).integers(0, 200, (SIDE, SIDE + 2, 3))
    pixels[..., 0 if label == "red" else 2] += 40
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def colours(folder: Path, per_class: int = PER_CLASS) -> Path:
    """A ZIP of images in folders; a part is a third as large as training."""
    counts = {"train": per_class, "val": per_class // 3, "test": per_class // 3}
    files: dict[str, Content] = {
        f"{part}/{label}/{number}.png": coloured(label, 1000 * place + number)
        for place, (part, label) in enumerate((part, label) for part in counts for label in LABELS)
        for number in range(counts[part])
    }
    return zipped(folder / "colours.zip", files)


def dataset(folder: Path, per_class: int = PER_CLASS) -> Checked:
    """The same, checked, with all its images."""
    return check_here(colours(folder, per_class))


def scenes(folder: Path, train: int = 24, val: int = 8, side: int = 64) -> Checked:
    """Shapes to find, checked."""
    files: dict[str, Content] = {**shapes.yolo({"train": train, "val": val}, side)}
    return check_here(zipped(folder / "shapes.zip", files), "detection")


def weights_file(folder: Path, name: str = "cnn32", num_classes: int = 2, side: int = SIDE) -> Path:
    """Weights of a seeded network, as a conversion keeps them."""
    from shared.nets import architectures, weights

    path = folder / "start.safetensors"
    path.write_bytes(weights.state_bytes(architectures.build(name, num_classes), (3, side, side)))
    return path


def order(weights: Path, data: Checked, folder: Path, **changed: Any) -> TrainOrder:
    """For `max_epochs` of the spec, three by default; fields of the spec and of the order are told apart by name."""
    folder.mkdir(exist_ok=True)
    given = {key: changed.pop(key) for key in list(changed) if key in TrainingSpec.__struct_fields__}
    hyperparams = given.pop("hyperparams", HyperParameters(batch_size=16))
    spec = TrainingSpec(**({"model_id": "m", "dataset_id": "d", "max_epochs": 3, "hyperparams": hyperparams} | given))
    facts = {"labels": LABELS, "preprocessing": CONTRACT, "threads": 1} | changed
    paths = {"index": str(data.paths["index"]), "pack": str(data.paths["pack"])}
    return TrainOrder(spec=spec, weights=str(weights), folder=str(folder), **paths, **facts)


@contextlib.contextmanager
def settings_of_pytorch() -> Iterator[None]:
    """Puts back what a training sets for its whole process."""
    import torch

    threads, filled = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled


def here(
    asked: TrainOrder, stop: Callable[[], bool] = lambda: False, report: child.Report = lambda body: None
) -> Trained:
    """The training without the child around it."""
    from trainer.training import train

    with settings_of_pytorch():
        return train(asked, report, stop)


def run_until(asked: TrainOrder, kill: Callable[[dict[str, Any]], bool]) -> Trained | None:
    """The training's child; None where `kill`, which sees every progress body, had it killed."""
    command = [sys.executable, "-m", "trainer.enclosed"]
    environment = os.environ | {nursery.PARENT_ENV: str(os.getpid())}
    decoder = msgspec.json.Decoder(child.Progress | child.Result | child.Refused)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode(asked))
        process.stdin.close()
        for line in process.stdout:
            match decoder.decode(line):
                case child.Progress(body=body):
                    if kill(body):
                        process.send_signal(signal.SIGKILL)
                        return None
                case child.Result(value=value):
                    return msgspec.json.decode(value, type=Trained)
                case child.Refused(message=message):
                    raise AssertionError(message)
    raise AssertionError("it ended without an answer")


def figures(epoch: int, val_accuracy: float = 0.5) -> EpochFigures:
    """A made-up point of the learning curves."""
    return EpochFigures(
        epoch=epoch,
        loss=1.0 / epoch,
        accuracy=0.5,
        val_loss=1.0,
        val_accuracy=val_accuracy,
        learning_rate=0.001,
        seconds=0.5,
    )


def reached(epochs: int = 3, accuracy: float = 0.9, **changes: Any) -> TrainingResult:
    """A made-up training of the ten digits."""
    made = TrainingResult(
        classes=[str(digit) for digit in range(10)],
        epochs=[figures(number, accuracy) for number in range(1, epochs + 1)],
        best_epoch=1,
        final_accuracy=accuracy,
        final_loss=1.0,
        confusion=[(0, 0, 10)],
        worst=[],
        hyperparams=HyperParameters(learning_rate=0.001, weight_decay=0.01, augmentation="light", patience=5),
        seed=0,
        num_train=80,
        num_val=10,
        stopped_early=False,
        duration_s=1.5,
        images_per_s=160.0,
        device="CPU",
        threads=2,
        versions={"torch": "2"},
        notes=[],
    )
    return msgspec.structs.replace(made, **changes)
