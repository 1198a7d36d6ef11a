"""The model that a training leaves: its weights, its ONNX file, and what is to be known of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from torch import Tensor

from shared import metadata
from shared.engines import engine_class
from shared.nets import architectures, export, weights
from shared.nets.export import Exported, Say
from shared.specs import ConversionFacts, ModelDescription
from trainer.terms import Terms

BATCH = "batch"
"""Name of the free axis, as the preparer gives it."""


def write(
    terms: Terms, state: Mapping[str, Tensor], source: str, outputs: Mapping[Literal["onnx", "weights"], int], say: Say
) -> tuple[ConversionFacts, ModelDescription]:
    """The model: its weights, and the same as ONNX with contract and labels, compared with PyTorch and described.

    Args:
        terms: Of the training.
        state: The weights.
        source: What they are, in words.
        outputs: Descriptors that get them.
        say: Told what it does now.

    Raises:
        errors.BadModel: They give something else as ONNX, or cannot be exported.
        errors.TooLarge: They do not fit a single ONNX file.
    """
    known = terms.start.net.architecture
    assert known is not None
    net = architectures.unscaled(known.name, known.num_classes)  # as it was, without what only training needed
    net.module.load_state_dict(state)
    made = export.export(net, terms.start.input_shape, source=source, say=say)
    say("describing and writing the model")
    with open(outputs["weights"], "wb", closefd=False) as file:
        file.write(weights.state_bytes(net, terms.start.input_shape))
    with tempfile.NamedTemporaryFile(suffix=".onnx") as plain:
        plain.write(made.onnx)
        plain.flush()
        pairs = metadata.describing(terms.contract, terms.dataset.classes)
        metadata.write(Path(plain.name), outputs["onnx"], pairs)
        facts = msgspec.structs.replace(made.facts, stages=architectures.stage_count(net))
        return facts, _described(terms, Path(plain.name), made)


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
