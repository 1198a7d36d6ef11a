"""`make bench-train`: training beside a bare loop of PyTorch, killed and taken up again, on the digits and on shapes.

`python -m benchmarks.training NAME ...` makes some of the checks, without names all of them; `--times N` makes N rounds
or kills instead of the usual number. A missed goal makes the command fail.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np

from benchmarks import checks, shapes
from benchmarks.checks import Found, console
from preparer import DatasetFile, DatasetOrder
from preparer.dataset import check
from shared import child, config, nursery
from shared.specs import Augmentation, HyperParameters, Preprocessing, Resize, Task, TrainingSpec
from shared.vision import boxes
from shared.vision.decode import decode
from shared.vision.preprocess import placement, preprocess
from shared.vision.samples import drawn_image, read_index
from trainer import CHECKPOINT, Trained, TrainOrder

if TYPE_CHECKING:
    import torch

ROUNDS, SHARE = 5, 0.9
KILLS = 10
DIGITS_ACCURACY, DIGITS_S = 0.97, 120
SHAPES, SHAPES_SIDE, SHAPES_EPOCHS, SHAPES_MAP50, SHAPES_S = 300, 160, 30, 0.9, 600
SHAPES_UNSEEN, SHAPES_FOUND = 100, 0.95
DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits" / "dataset.py"

FILES: tuple[DatasetFile, ...] = ("index", "pack", "sheet")

Files = dict[DatasetFile, Path]


# --- throughput -------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """What both loops do: images of `original` pixels a side, seen by the network at `side`."""

    architecture: str
    original: int
    side: int
    images: int
    kind: Augmentation


CASES = (Case("cnn32", 40, 32, 768, "light"), Case("resnet18", 160, 96, 256, "strong"))
BATCH = 32


def throughput(folder: Path, times: int | None) -> Found:
    """Images a second beside a bare loop with PyTorch's own loader, turn by turn: same variations, batch, workers."""
    for case in CASES:
        ours: list[float] = []
        bare: list[float] = []
        alone: list[float] = []
        with _Sides(folder, case) as sides:
            for turn in range(-1, times or ROUNDS):
                runs = [(ours, sides.ours), (bare, sides.bare), (alone, sides.alone)]
                for into, run in runs[turn % 3 :] + runs[: turn % 3]:
                    found = run()
                    if turn >= 0:  # the one before warms up
                        into.append(found)
        ratios = [one / other for one, other in zip(ours, bare, strict=True)]
        ratio = statistics.median(ratios)
        told = (
            f"{case.architecture} at {case.side}: {statistics.median(ours):.0f} images/s against "
            f"{statistics.median(bare):.0f}, ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}; goal {SHARE}); "
            f"{statistics.median(alone):.0f} over tensors that are there already"
        )
        yield told, ratio >= SHARE


class _Sides:
    """The two loops, and the network alone, over the same images; each call is an epoch and gives images a second."""

    def __init__(self, folder: Path, case: Case) -> None:
        import torch

        from shared.nets import architectures
        from trainer import classification
        from trainer.batches import Images, Loader, workers_for
        from trainer.loop import Learner
        from trainer.sampling import batches
        from trainer.terms import resolved

        torch.set_num_threads(config.cores())
        side = case.original
        files = {f"{number % 4}/{number}.jpg": drawn_image(side, side, number) for number in range(case.images)}
        data = dataset(folder, files)
        contract = Preprocessing(resize=Resize(height=case.side, width=case.side), mean=(0.5,), std=(0.25,))
        self._case, self._epoch = case, 0
        self._images = Images(data["pack"], read_index(data["index"]).samples, contract)
        self._workers = workers_for(config.cores(), torch.cuda.is_available())
        self._loader = Loader(self._workers)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        wanted = resolved(HyperParameters(batch_size=BATCH, augmentation=case.kind), 100, contract.resize)
        self._pieces = batches(np.arange(case.images), BATCH)

        def network() -> torch.nn.Module:
            net = architectures.build(case.architecture, 4).module
            return net.to(self._device, memory_format=torch.channels_last)

        self._learner = Learner(
            network(), classification.loss, [], wanted, steps_per_epoch=len(self._pieces), max_epochs=100
        )
        self._bare = network()
        self._optimizer = torch.optim.AdamW(self._bare.parameters(), lr=1e-3, fused=True)
        self._theirs = torch.utils.data.DataLoader(
            _Varied(self._images, case.kind),
            BATCH,
            shuffle=True,
            num_workers=self._workers,
            persistent_workers=True,
            pin_memory=self._device.type == "cuda",
        )
        whole = self._images.batch(np.arange(case.images))
        self._tensors = [
            (torch.from_numpy(whole.images[piece]), torch.from_numpy(whole.targets[piece])) for piece in self._pieces
        ]

    def __enter__(self) -> _Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self._loader.close()
        self._images.close()

    def ours(self) -> float:
        """As in a training, without validation and checkpoint."""
        from trainer.batches import draws_of
        from trainer.sampling import epoch_order

        self._epoch += 1
        began = time.perf_counter()
        order = epoch_order(self._images.labels, "sqrt", 0, self._epoch)
        pieces = np.array_split(order, len(self._pieces))
        loaded = self._loader.load(self._images, pieces, self._case.kind, draws_of(len(order), 0, self._epoch))
        self._learner.epoch(loaded, self._epoch, 0, lambda: False, lambda done, loss: None)
        return self._case.images / (time.perf_counter() - began)

    def bare(self) -> float:
        """What one would write by hand."""
        return self._by_hand(self._theirs)

    def alone(self) -> float:
        """The same without a loader."""
        return self._by_hand(self._tensors)

    def _by_hand(self, batches: Any) -> float:
        import torch

        began = time.perf_counter()
        self._bare.train()
        half = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._device.type == "cuda")
        total = 0.0
        for given, labels in batches:
            images = given.to(self._device, non_blocking=True).to(memory_format=torch.channels_last)
            with half:
                outputs = self._bare(images)
            loss = torch.nn.functional.cross_entropy(outputs.float(), labels.to(self._device, non_blocking=True))
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
            total = total + loss.detach()
        assert np.isfinite(float(total))
        return self._case.images / (time.perf_counter() - began)


class _Varied:
    """The same images to PyTorch's loader, one by one."""

    def __init__(self, images: Any, kind: Augmentation) -> None:
        self._images, self._kind = images, kind

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        import torch

        draws = torch.rand(1, 8).numpy()  # seeded differently in each of its workers, as NumPy's would not be
        found = self._images.batch(np.array([place]), self._kind, draws)
        return torch.from_numpy(found.images[0]), int(found.targets[0])


# --- killed and taken up again ----------------------------------------------------------------------------------------


def resume(folder: Path, times: int | None) -> Found:
    """Trainings of the digits, each killed at a random moment, end with the weights of one that was not."""
    data = digits(folder)
    whole = order(folder / "whole", data, "cnn32", side=8, epochs=4)
    began = time.monotonic()
    if child_of(whole) is None:
        raise SystemExit("It was killed by somebody else.")
    seconds = time.monotonic() - began
    expected = checkpoint_tensors(folder / "whole")
    draw, same, caught = random.Random(0), 0, 0
    for number in range(times or KILLS):
        asked = order(folder / f"killed-{number}", data, "cnn32", side=8, epochs=4)
        moment = draw.uniform(0, seconds)
        killed = child_of(asked, kill_after_s=moment) is None
        caught += killed
        if killed:
            child_of(asked)
        equal = checkpoint_tensors(folder / f"killed-{number}") == expected
        same += equal
        what = f"killed after {moment:.1f} s" if killed else f"had ended before {moment:.1f} s"
        console.print(f"  {number + 1:2} {what}: {'the same' if equal else 'other'} weights", style="dim")
    told = f"{same} of {times or KILLS} end with the same weights and optimizer, bit by bit, {caught} of them killed"
    yield f"{told} (goal all)", same == (times or KILLS)


def child_of(asked: TrainOrder, kill_after_s: float | None = None) -> Trained | None:
    """The training in its child; None where it was killed."""
    with subprocess.Popen(
        [sys.executable, "-m", "trainer.enclosed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=list(asked.outputs.values()),
        env=os.environ | {nursery.PARENT_ENV: str(os.getpid())},
    ) as running:
        try:
            said, _ = running.communicate(msgspec.json.encode(asked), timeout=kill_after_s)
        except subprocess.TimeoutExpired:
            running.kill()
            return None
    answer = msgspec.json.decode(said.splitlines()[-1], type=child.Result | child.Refused)
    if isinstance(answer, child.Refused):
        raise SystemExit(answer.message)
    return msgspec.json.decode(answer.value, type=Trained)


def checkpoint_tensors(folder: Path) -> dict[str, bytes]:
    """All of a training's checkpoint: the weights, the best ones, the optimizer's state."""
    import safetensors

    with safetensors.safe_open(folder / CHECKPOINT, "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - it is no dictionary


# --- the digits -------------------------------------------------------------------------------------------------------


def learned(folder: Path, _times: int | None) -> Found:
    """Networks without a trained weight learn the digits, through the training's child."""
    data = digits(folder)
    for architecture, side, epochs in (("cnn32", 16, 8), ("timm/resnet18", 32, 6)):
        asked = order(folder / architecture.replace("/", "-"), data, architecture, side=side, epochs=epochs)
        made = child_of(asked)
        if made is None:
            raise SystemExit("It was killed by somebody else.")
        result = made.result
        told = (
            f"{architecture} at {side}: {result.final_accuracy:.1%} of validation after epoch {result.best_epoch} of "
            f"{len(result.epochs)} (goal {DIGITS_ACCURACY:.0%}), {result.duration_s:.0f} s (goal {DIGITS_S})"
        )
        yield told, result.final_accuracy > DIGITS_ACCURACY and result.duration_s <= DIGITS_S


# --- the shapes -------------------------------------------------------------------------------------------------------


def detected(folder: Path, times: int | None) -> Found:
    """YOLOv8n without a trained weight learns to find shapes on noise, through the training's child."""
    data = dataset(folder, shapes.yolo({"train": SHAPES, "val": SHAPES // 3}, SHAPES_SIDE), "detection")
    asked = order(folder / "yolov8n", data, "yolov8n", side=640, epochs=times or SHAPES_EPOCHS)
    hyperparams = HyperParameters(image_size=SHAPES_SIDE, batch_size=16)
    spec = msgspec.structs.replace(asked.spec, hyperparams=hyperparams)
    with (folder / "model.onnx").open("wb") as onnx, (folder / "weights").open("wb") as kept:
        outputs: dict[Literal["onnx", "weights"], int] = {"onnx": onnx.fileno(), "weights": kept.fileno()}
        made = child_of(msgspec.structs.replace(asked, spec=spec, preprocessing=None, outputs=outputs))
    if made is None:
        raise SystemExit("It was killed by somebody else.")
    for each in made.result.epochs:
        told = f"mAP50 {each.val_map50:.3f}, mAP50-95 {each.val_accuracy:.3f}, loss {each.loss:.3f}"
        console.print(f"  {each.epoch:2} {told}, of validation {each.val_loss:.3f}, {each.seconds:.1f} s", style="dim")
    result = made.result
    assert result.final_map50 is not None
    told = (
        f"yolov8n at {SHAPES_SIDE}: mAP50 {result.final_map50:.3f} (goal {SHAPES_MAP50}), mAP50-95 "
        f"{result.final_accuracy:.3f} after epoch {result.best_epoch} of {len(result.epochs)}, {result.duration_s:.0f} "
        f"s (goal {SHAPES_S}), {result.num_train} images to learn from, {result.num_val} to judge by"
    )
    yield told, result.final_map50 > SHAPES_MAP50 and result.duration_s <= SHAPES_S
    yield _served(folder / "model.onnx", made)


def _served(path: Path, made: Trained) -> tuple[str, bool]:
    """What the exported file finds in images that the training never saw, as serving shows it."""
    from shared.engines import engine_class

    contract = made.preprocessing
    assert contract.detection is not None and made.facts is not None
    found = wrong = total = 0
    with engine_class("onnxruntime")(path, threads=config.cores()) as engine:
        for seed in range(SHAPES_UNSEEN):
            data, drawn = shapes.picture(SHAPES_SIDE, 10**6 + seed)
            image = decode(data)
            output = next(iter(engine.infer({engine.inputs[0].name: preprocess(image, contract)[None]}).values()))
            shown = boxes.placed(
                boxes.find(output, contract.detection)[0],
                contract.detection,
                (contract.resize.width, contract.resize.height),
                placement(image.size, contract.resize),
                shapes.CLASSES,
            )
            right = {shape for shape in drawn if any(_same(shape, box) for box in shown)}
            found, total = found + len(right), total + len(drawn)
            wrong += len(shown) - len(right)
    apart = max(each.max_abs_diff for each in made.facts.parity)
    batches = ", ".join(str(each.batch) for each in made.facts.parity)
    told = (
        f"as ONNX, at most {apart:.2g} from PyTorch at batches {batches}: serving shows {found} of {total} shapes in "
        f"{SHAPES_UNSEEN} images it never saw (goal {SHAPES_FOUND:.0%}), and {wrong} boxes too many"
    )
    return told, found >= SHAPES_FOUND * total and wrong <= (1 - SHAPES_FOUND) * total


def _same(shape: shapes.Box, box: boxes.BoxScore) -> bool:
    overlap = boxes.iou(np.array([shape[1:]], np.float32), np.array([box.box], np.float32))[0, 0]
    return bool(shape[0] == box.class_id and overlap >= 0.5)


# --- what they share --------------------------------------------------------------------------------------------------


def dataset(folder: Path, files: dict[str, bytes], task: Task = "classification") -> Files:
    """Checked as an upload is: `index`, `pack` and `sheet`."""
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return checked(path, task)


def checked(path: Path, task: Task = "classification") -> Files:
    """The files that the check of an upload leaves."""
    made: Files = {name: path.with_suffix(f".{name}") for name in FILES}
    with contextlib.ExitStack() as stack:
        outputs = {name: stack.enter_context(place.open("wb")).fileno() for name, place in made.items()}
        asked = DatasetOrder(
            path=str(path),
            task_type=task,
            split=None,
            seed=0,
            frames_per_second=1.0,
            name="Benchmark",
            outputs=outputs,
        )
        check(asked, lambda body: None)
    return made


def digits(folder: Path) -> Files:
    """The digits that come with the platform."""
    return checked(digits_archive(folder))


def digits_archive(folder: Path) -> Path:
    """The same as they are uploaded."""
    path = folder / "digits.zip"
    subprocess.run([sys.executable, DIGITS, path], check=True, capture_output=True)
    return path


def order(folder: Path, data: Files, architecture: str, *, side: int, epochs: int) -> TrainOrder:
    """Of a network with seeded weights and as many classes as it was published with."""
    from shared.nets import architectures, weights

    folder.mkdir()
    start = folder.with_suffix(".safetensors")
    start.write_bytes(weights.state_bytes(architectures.build(architecture), (3, side, side)))
    return TrainOrder(
        spec=TrainingSpec(model_id="mdl_1", dataset_id="dst_1", max_epochs=epochs),
        weights=str(start),
        labels=None,
        preprocessing=Preprocessing(resize=Resize(height=side, width=side), mean=(0.5,), std=(0.5,)),
        index=str(data["index"]),
        pack=str(data["pack"]),
        folder=str(folder),
    )


CHECKS: dict[str, checks.Check] = {
    "throughput": throughput,
    "resume": resume,
    "digits": learned,
    "shapes": detected,
}


if __name__ == "__main__":
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as in the training's child, for both sides of a comparison
    checks.main("benchmarks.training", __doc__, CHECKS)
