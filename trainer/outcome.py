"""What came of a training: where the network is wrong, and the model that it leaves."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from torch import Tensor

from shared import metadata
from shared.engines import engine_class
from shared.nets import architectures, export, weights
from shared.nets.export import Exported
from shared.specs import ConversionFacts, ModelDescription, Sample, WorstSample
from trainer.loop import Answers
from trainer.terms import Terms

WORST = 12
BATCH = "batch"
"""Name of the free axis, as the preparer gives it."""


def confusion(answers: Answers) -> list[tuple[int, int, int]]:
    """True class, predicted class and how often, sorted; pairs that do not occur are left out."""
    pairs, counts = np.unique(np.stack([answers.labels, answers.predicted]), axis=1, return_counts=True)
    return [(int(true), int(said), int(count)) for (true, said), count in zip(pairs.T, counts, strict=True)]


def worst(answers: Answers, samples: Sequence[Sample]) -> list[WorstSample]:
    """The images with the largest loss, the largest first; `answers.places` lie in `samples`."""
    found = []
    for row in (-answers.losses).argsort(kind="stable")[:WORST].tolist():
        sample = samples[int(answers.places[row])]
        found.append(
            WorstSample(
                member=sample.member,
                time_s=sample.time_s,
                class_id=int(answers.labels[row]),
                predicted=int(answers.predicted[row]),
                confidence=round(float(answers.confidences[row]), 6),
                loss=round(float(answers.losses[row]), 6),
            )
        )
    return found


def write(
    terms: Terms, state: Mapping[str, Tensor], source: str, outputs: Mapping[Literal["onnx", "weights"], int]
) -> tuple[ConversionFacts, ModelDescription]:
    """The model: its weights, and the same as ONNX with contract and labels, compared with PyTorch and described.

    Args:
        terms: Of the training.
        state: The weights.
        source: What they are, in words.
        outputs: Descriptors that get them.

    Raises:
        errors.BadModel: They give something else as ONNX, or cannot be exported.
        errors.TooLarge: They do not fit a single ONNX file.
    """
    known = terms.start.net.architecture
    assert known is not None
    net = architectures.unscaled(known.name, known.num_classes)  # as it was, without what only training needed
    net.module.load_state_dict(state)
    made = export.export(net, terms.start.input_shape, source=source)
    with open(outputs["weights"], "wb", closefd=False) as file:
        file.write(weights.state_bytes(net, terms.start.input_shape))
    with tempfile.NamedTemporaryFile(suffix=".onnx") as plain:
        plain.write(made.onnx)
        plain.flush()
        pairs = metadata.describing(terms.contract, terms.dataset.classes)
        metadata.write(Path(plain.name), outputs["onnx"], pairs)
        return made.facts, _described(terms, Path(plain.name), made)


def _described(terms: Terms, path: Path, made: Exported) -> ModelDescription:
    """What `preparer.describe` would find out; most of it is known here, for the network is ours."""
    with engine_class("onnxruntime")(path, threads=1) as engine:
        images = np.zeros((1, *terms.start.input_shape), np.float32)
        answers = engine.infer({engine.inputs[0].name: images})
        first: int | str = BATCH if made.facts.dynamic_batch else 1
        inputs = [msgspec.structs.replace(info, shape=[first, *images.shape[1:]]) for info in engine.inputs]
        outputs = [
            msgspec.structs.replace(info, shape=[first, *answers[info.name].shape[1:]]) for info in engine.outputs
        ]
    return ModelDescription(
        inputs=inputs,
        outputs=outputs,
        opset=made.facts.opset,
        ir_version=made.ir_version,
        parameters=made.parameters,
        dynamic_batch=made.facts.dynamic_batch,
        preprocessing=terms.contract,
        labels=terms.dataset.classes,
    )
