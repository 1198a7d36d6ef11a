"""What an order comes to, with its files looked at: all that a training follows from, or why it cannot be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from shared import errors
from shared.specs import Architecture, DatasetIndex, HyperParameters, Preprocessing, Resize, canonical_json
from shared.vision import augmentation, preprocess
from shared.vision.samples import read_index
from trainer import TrainOrder, loop, network, sampling
from trainer.network import Start
from trainer.sampling import Parts

LEAST_PATIENCE = 5
WHOLE = (
    "The model it began with has JPEGs decoded at a part of their size. This one is not judged by such images, and has "
    "them whole."
)
CORRECTED = "The model's preprocessing said otherwise what the network answers, and was corrected."
NAMED = 5
"""Classes that a note names."""

Value = TypeVar("Value")


class Terms(NamedTuple):
    """Of one training."""

    key: str
    """Of the order and its files: equal ones give equal weights."""
    dataset: DatasetIndex
    parts: Parts
    start: Start
    contract: Preprocessing
    wanted: HyperParameters
    """Nothing left open."""
    notes: list[str]


def of(order: TrainOrder) -> Terms:
    """The terms of an order.

    Raises:
        errors.InvalidInput: The order, the model and the dataset do not fit.
        errors.BadDataset: The dataset's files are gone.
        errors.BadModel: The weights are gone, or not ours.
    """
    spec, index = order.spec, read_index(Path(order.index))
    key = _key(order)
    start = network.start(Path(order.weights), order.labels, index, spec.seed)
    contract, notes = _contract(order, start)
    if spec.hyperparams.image_size is not None:
        contract = resized(contract, spec.hyperparams.image_size)
        start = network.sized(start, preprocess.shape(contract))
    parts = sampling.parts(index, spec.validation_split, spec.seed)
    remarks = [*_unseen(index.classes, sampling.class_counts(parts.train)), *_left_out(index, parts)]
    wanted = resolved(spec.hyperparams, spec.max_epochs, contract.resize)
    return Terms(key, index, parts, start, contract, wanted, [*start.notes, *notes, *remarks])


def resized(contract: Preprocessing, side: int) -> Preprocessing:
    """The contract for another height and width, cutting out as much of an image as before."""
    was = contract.resize
    scale_to = None
    if was.scale_to is not None:
        scale_to = max(side, round(was.scale_to * side / max(was.height, was.width)))
    return msgspec.structs.replace(
        contract, resize=msgspec.structs.replace(was, height=side, width=side, scale_to=scale_to)
    )


def resolved(wanted: HyperParameters, max_epochs: int, resize: Resize) -> HyperParameters:
    """With nothing left open.

    Args:
        wanted: As ordered.
        max_epochs: Of the order.
        resize: To what the network takes.
    """
    side = max(resize.height, resize.width)
    return msgspec.structs.replace(
        wanted,
        learning_rate=_chosen(wanted.learning_rate, loop.RATES[wanted.optimizer]),
        weight_decay=_chosen(wanted.weight_decay, loop.DECAYS[wanted.optimizer]),
        augmentation=_chosen(wanted.augmentation, augmentation.default_for(side)),
        image_size=side if resize.height == resize.width else None,
        patience=_chosen(wanted.patience, max(LEAST_PATIENCE, math.ceil(max_epochs / 4))),
    )


def _chosen(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def _key(order: TrainOrder) -> str:
    spec = msgspec.structs.replace(order.spec, priority=0, name=None)
    said = canonical_json((spec, order.labels, order.preprocessing))
    return hashlib.sha256(b"\0".join((said, *map(_digest, (order.weights, order.index))))).hexdigest()


def _digest(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, hashlib.sha256).digest()
    except OSError as error:
        raise errors.BadModel("The model's weights are gone; upload it again.") from error


def _contract(order: TrainOrder, start: Start) -> tuple[Preprocessing, list[str]]:
    """How images are prepared, for training as for predictions, and what was changed of what the model said."""
    assert start.net.architecture is not None
    said = order.preprocessing or start.net.architecture.preprocessing
    contract = said.reduced(1)
    if contract.layout != "NCHW" or contract.dtype != "float32":
        raise errors.InvalidInput(
            "A network is trained on float32 images with the channels first (layout NCHW); the model's preprocessing "
            "says otherwise. Upload it again without `preprocessing`."
        )
    if preprocess.shape(contract) != start.input_shape:
        raise errors.InvalidInput(
            f"The model's preprocessing makes images of {list(preprocess.shape(contract))}, its network takes "
            f"{list(start.input_shape)}. Upload it again with a fitting `preprocessing`."
        )
    fixed, notes = _corrected(contract, start.net.architecture)
    return fixed, [*notes, WHOLE] if said != contract else notes


def _corrected(contract: Preprocessing, architecture: Architecture) -> tuple[Preprocessing, list[str]]:
    """The contract as to what the network answers, which its architecture decides."""
    known = architecture.preprocessing
    if architecture.task == "classification":
        fixed = msgspec.structs.replace(contract, scores=known.scores, detection=None)
    else:
        assert known.detection is not None
        rules = contract.detection or known.detection
        rules = msgspec.structs.replace(rules, format=known.detection.format, coordinates=known.detection.coordinates)
        fixed = msgspec.structs.replace(contract, scores=known.scores, detection=rules)
    return fixed, [] if fixed == contract else [CORRECTED]


def _unseen(classes: list[str], trained: Collection[int]) -> list[str]:
    missing = [name for number, name in enumerate(classes) if number not in trained]
    if not missing:
        return []
    names = ", ".join(repr(name[:80]) for name in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return [f"No image for training shows {names}{more}: nothing can be learned of that."]


def _left_out(index: DatasetIndex, parts: Parts) -> list[str]:
    others = sum(sample.split != "test" for sample in index.samples) - len(parts.train) - len(parts.val)
    if index.task_type != "detection" or not others:
        return []
    return [f"{others:,} validation images were left out; {len(parts.val):,}, drawn by the seed, judge every epoch."]
