"""The child that makes ONNX of a TensorFlow file. It runs in the environment of `make setup-tensorflow`.

It shuts itself in before anything looks at the file. What is in the file decides what it is, not its name: a Keras
archive, Keras HDF5, or a frozen graph. All three meet as a frozen graph, whose every operator is on a list.
"""

from __future__ import annotations

import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preparer import Conversion, ConversionOrder, write
from shared import child, errors, sandbox
from shared.specs import ConversionFacts

NOWHERE = "/dev/null"
"""Stands for the folders in which the libraries want to keep things; nothing can be made below it."""
COMMAND_LINE = Path("/proc/self/cmdline")
"""Of this process; TensorFlow ends itself where it cannot read that."""
QUIET = {
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": NOWHERE + "/keras",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}
"""The last makes TensorFlow compute as it says, without reordering sums for speed: it is the reference here."""


def convert(order: ConversionOrder, report: Callable[[dict[str, Any]], None]) -> Conversion:
    """Convert the file with nothing else in reach, write the ONNX bytes to `order.outputs["onnx"]`, say how it went.

    Raises:
        errors.BadModel: The file is refused or cannot be converted; the message says why and what to do.
    """
    started = time.monotonic()
    os.open(COMMAND_LINE, os.O_RDONLY)  # stays open: the permission belongs to what the kernel keeps while it is
    sandbox.enter([Path(__file__).parent, Path(order.path), COMMAND_LINE])
    tempfile.tempdir = NOWHERE  # asked for while TensorFlow is imported
    os.environ.update(QUIET)
    from preparer import keras_file  # no TensorFlow yet: most bad files are refused in a second

    opened = keras_file.opened(Path(order.path))
    report({"stage": "loading TensorFlow"})
    from preparer import frozen_graph, to_onnx

    for name in ("tensorflow", "tf2onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if opened:
            report({"stage": f"reading the {opened.kind}"})
            source = frozen_graph.from_keras(opened.load(), order.input_shape)
        else:
            source = frozen_graph.from_file(Path(order.path), order.input_shape)
        report({"stage": "converting to ONNX"})
        model = to_onnx.converted(source)
        report({"stage": "comparing with TensorFlow"})
        parity, dynamic = to_onnx.compared(source, model)
    except MemoryError:
        raise
    except Exception as error:
        raise _out_of_memory(error) or error from error
    content = model.SerializeToString()
    write(order.outputs["onnx"], content)
    facts = ConversionFacts(
        exporter=to_onnx.exporter(),
        source=opened.kind if opened else frozen_graph.KIND,
        opset=next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")),
        dynamic_batch=dynamic,
        parity=parity,
        seconds=round(time.monotonic() - started, 3),
        peak_memory_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )
    return Conversion(facts=facts)


def _out_of_memory(error: Exception) -> errors.TooLarge | None:
    """TensorFlow has an exception of its own for it, and Keras wraps that one now and then."""
    if "OOM when allocating" in str(error) or "Unable to allocate" in str(error):
        return errors.TooLarge("The model needs more memory than a conversion may use. Make its layers smaller.")
    return None


if __name__ == "__main__":
    child.main(ConversionOrder, convert)
