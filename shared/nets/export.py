"""Turns a network into one ONNX file and compares the two on the same input."""

from __future__ import annotations

import io
import math
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from shared import errors
from shared.nets import THREADS, allocations
from shared.nets.architectures import INPUT, Net, output_names, tensors
from shared.specs import ConversionFacts, Parity

BATCHES = (1, 2, 8)
TOLERANCE = 1e-4
"""Largest difference from the source: absolute, or relative to its largest output (of the same channel, where an output
has channels and places, as boxes and scores have) when that is above 1."""
COARSE, NOISE = 1e-2, 1e-6
"""Outputs that are all tiny must agree as well: within this share of the largest, but not closer than float32 can."""
SEED = 0
EXAMPLE = 2
"""Batch to export with: at 1 an axis looks as if it could be broadcast or squeezed away."""
OPSET = 18
"""Of the exporter for TorchScript, which is no longer developed; the other takes its own default."""
MAX_BYTES = 2**31 - 2**24
"""What a single ONNX file can hold, less its graph."""
SILENT = 4

Values = list[npt.NDArray[np.generic]]
Say = Callable[[str], None]


class Exported(NamedTuple):
    """An ONNX model in memory, and what is known of how it came about."""

    onnx: bytes
    facts: ConversionFacts
    ir_version: int
    parameters: int


def export(
    net: Net,
    input_shape: Sequence[int] | None = None,
    *,
    source: str = "network",
    say: Say = lambda doing: None,
) -> Exported:
    """Export a network and run both at each of `BATCHES`.

    A network that cannot be exported with a free batch, or gives something else at another batch than it was exported
    with, is exported for a batch of 1, and its facts say so.

    Args:
        net: In eval mode.
        input_shape: Of one image; default: what its architecture takes (channels, height, width).
        source: What the network came from, in words, for the facts.
        say: Told what it does now.

    Raises:
        errors.BadModel: It cannot be exported, or gives something else as ONNX.
        errors.TooLarge: Its weights do not fit a single ONNX file.
        MemoryError: It takes more memory than there is.
    """
    shape = _shape(net, input_shape)
    started = time.monotonic()
    _check_size(net)
    with allocations(), torch.no_grad():
        attempt = _attempt(net, shape, say, dynamic=True)
        if isinstance(attempt, str):
            attempt = _attempt(net, shape, say, dynamic=False)
        if isinstance(attempt, str):
            raise errors.BadModel(attempt)
    content, opset, parity, dynamic, ir_version, parameters = attempt
    exporter = f"torch {torch.__version__} {'TorchScript' if _is_script(net) else 'dynamo'} exporter"
    facts = ConversionFacts(
        source=source,
        exporter=exporter,
        opset=opset,
        dynamic_batch=dynamic,
        parity=parity,
        seconds=round(time.monotonic() - started, 3),
        peak_memory_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )
    return Exported(content, facts, ir_version, parameters)


class _Made(NamedTuple):
    content: bytes
    opset: int
    parity: list[Parity]
    dynamic: bool
    ir_version: int
    parameters: int


def _attempt(net: Net, shape: tuple[int, ...], say: Say, *, dynamic: bool) -> _Made | str:
    """The export and its comparison, or what went wrong."""
    example = EXAMPLE if dynamic else 1
    say("exporting it as ONNX")
    try:
        given = _source(net, _images(example, shape))
        if any(each.shape[:1] != (example,) for each in given) or not given:
            return f"The network has to give a tensor whose first axis is the batch; here it gives {_shapes(given)}."
        model = _exported(net, torch.from_numpy(_images(example, shape)), len(given), dynamic)
        _forget_origin(model)
        content = model.SerializeToString()
    except MemoryError:
        raise
    except Exception as error:  # the exporter meets whatever the network does
        if "allocate memory" in str(error):
            raise
        return f"PyTorch cannot export the network to ONNX ({_first_line(error)}). Export it yourself, upload the ONNX."
    if strange := {node.domain for node in model.graph.node} - {"", "ai.onnx"}:
        return f"The export needs operators outside the ONNX standard ({', '.join(sorted(strange))})."
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    ir_version, parameters = model.ir_version, sum(math.prod(each.dims) for each in model.graph.initializer)
    del model, given  # the comparison takes memory enough
    say("comparing the exported file with PyTorch")
    parity = _compared(net, content, shape, BATCHES if dynamic else (1,))
    return parity if isinstance(parity, str) else _Made(content, opset, parity, dynamic, ir_version, parameters)


def _forget_origin(model: onnx.ModelProto) -> None:
    """Without the exporter's notes: paths of this machine's source files, and shapes in between."""
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    model.ClearField("doc_string")
    model.graph.ClearField("doc_string")
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        part.ClearField("doc_string")
        del part.metadata_props[:]


def _exported(net: Net, images: torch.Tensor, outputs: int, dynamic: bool) -> onnx.ModelProto:
    names = output_names(outputs)
    common: dict[str, Any] = {"input_names": [INPUT], "output_names": names, "verbose": False}
    with warnings.catch_warnings(action="ignore"):
        if _is_script(net):
            buffer = io.BytesIO()
            axes = {name: {0: "batch"} for name in (INPUT, *names)} if dynamic else None
            torch.onnx.export(
                net.module, (images,), buffer, dynamo=False, opset_version=OPSET, dynamic_axes=axes, **common
            )
            return onnx.load_model_from_string(buffer.getvalue())
        free = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
        return torch.onnx.export(net.module, (images,), None, dynamo=True, dynamic_shapes=free, **common).model_proto


def _compared(net: Net, content: bytes, shape: tuple[int, ...], batches: Sequence[int]) -> list[Parity] | str:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = THREADS
    found, worst = [], 0.0
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for batch in batches:
            images = _images(batch, shape)
            wanted, given = _source(net, images), session.run(None, {INPUT: images})
            parity, share = _difference(batch, wanted, given)
            found.append(parity)
            worst = max(worst, share)
    except errors.AppError:
        raise
    except Exception as error:  # ONNX Runtime has classes of its own for each code
        return f"The exported network does not run ({_first_line(error)})."
    if worst <= 1:
        return found
    far = max(found, key=lambda each: each.max_abs_diff)
    return (
        f"As ONNX the network gives something else: {far.max_abs_diff:.3g} away at batch {far.batch}, where outputs go "
        f"up to {far.max_abs_output:.3g}. Randomness or a batch that is built in may be the cause."
    )


def _difference(batch: int, wanted: Values, given: Values) -> tuple[Parity, float]:
    """How far apart they are, and that as a share of what is allowed."""
    if [each.shape for each in wanted] != [each.shape for each in given]:
        raise ValueError(f"shapes differ at batch {batch}")
    if not all(np.isfinite(each).all() for each in wanted):
        raise errors.BadModel("On seeded random input the network gives NaN or infinite values.")
    furthest = largest = share = 0.0
    for one, other in zip(wanted, given, strict=True):
        sizes, apart = np.abs(one.astype(np.float64)), np.abs(one.astype(np.float64) - other.astype(np.float64))
        if not apart.size:
            continue
        places = (0, *range(2, one.ndim)) if one.ndim > 2 else None
        scale = sizes.max(axis=places, keepdims=True)
        allowed = np.minimum(TOLERANCE * np.maximum(1.0, scale), np.maximum(COARSE * scale, NOISE))
        furthest, largest = max(furthest, float(apart.max())), max(largest, float(sizes.max()))
        share = max(share, float((apart / allowed).max()) if np.isfinite(apart).all() else math.inf)
    return Parity(batch=batch, max_abs_diff=furthest, max_abs_output=largest), share


def _source(net: Net, images: npt.NDArray[np.float32]) -> Values:
    """What the network itself gives."""
    return [each.numpy() for each in tensors(net.module(torch.from_numpy(images)))]


def _shapes(values: Values) -> str:
    return " and ".join(str(list(each.shape)) for each in values) or "none"


def _images(batch: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.random.default_rng(SEED).standard_normal((batch, *shape), dtype=np.float32)


def _shape(net: Net, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None:
        return tuple(given)
    if net.architecture is None:
        raise errors.BadModel(
            "A TorchScript archive does not say what it takes. Upload it again with `preprocessing` or "
            "`input_shape`, such as [1, 3, 224, 224]."
        )
    return net.architecture.input_shape


def _check_size(net: Net) -> None:
    size = sum(value.numel() * value.element_size() for value in net.module.state_dict().values())
    if size > MAX_BYTES:
        raise errors.TooLarge(f"The weights are {size:,} bytes; a single ONNX file holds at most {MAX_BYTES:,}.")


def _is_script(net: Net) -> bool:
    return isinstance(net.module, torch.jit.ScriptModule)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
