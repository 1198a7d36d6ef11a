"""`make bench-convert`: model files of every format through the API to a prediction: how near, how long, how much.

Each file is generated from a seed and sent to a platform of its own. What the platform then answers for a photograph is
compared with what the source itself gives for it. A difference above `GOAL` makes the run fail.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import sources
from benchmarks.run import Platform, platform
from benchmarks.sources import Source
from shared import config
from shared.specs import ConversionFacts

GOAL = 1e-4
"""The largest difference, as a share of the source's largest output."""
ORDER = 1e-2
"""Below that, outputs would be too small to say that two networks agree."""
BATCHES = (1, 2, 8)
MB = 1e6


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A file that became a model and answered."""

    name: str
    size_bytes: int
    facts: ConversionFacts
    ready_s: float
    """From the first byte of the upload to `ready`."""
    answer: str
    """For the photograph, in words."""
    answer_apart: float
    """That answer's largest difference from the source's, as a share of the source's largest output."""

    @property
    def largest(self) -> float:
        """The source's largest output on random input."""
        return max(each.max_abs_output for each in self.facts.parity)

    @property
    def apart(self) -> float:
        """The largest difference of any batch, as a share of that batch's largest output."""
        return max(share(each.max_abs_diff, each.max_abs_output) for each in self.facts.parity)

    @property
    def missed(self) -> list[str]:
        """What falls short."""
        found = {
            "batches": tuple(each.batch for each in self.facts.parity) != BATCHES,
            "difference": not self.apart <= GOAL,
            "answer": not self.answer_apart <= GOAL,
            "outputs too small": self.largest < ORDER,
        }
        return [name for name, short in found.items() if short]


def share(difference: float, largest: float) -> float:
    """Of the largest; no difference is none, whatever the largest."""
    return difference / largest if largest else float(difference > 0)


def through(running: Platform, source: Source, image: bytes) -> Row:
    """Upload, wait until it is ready, predict.

    Raises:
        SystemExit: It did not become ready, or the answer is of another kind.
    """
    started = time.monotonic()
    model_id = running.upload(source.path, task_type=source.task_type, **source.fields)
    model = running.wait(f"/models/{model_id}", lambda body: body["status"] == "ready")
    ready_s = time.monotonic() - started
    found = running.http.post(
        "/inference/predict",
        params={"model_id": model_id, "outputs": True},
        content=image,
        headers={"Content-Type": "image/png"},
    )
    if found.is_error:
        raise SystemExit(f"{source.name}: {found.text}")
    body = found.json()
    given = np.asarray(next(iter(body["outputs"].values())), np.float32)
    if given.shape != source.output.shape:
        raise SystemExit(f"{source.name}: {given.shape} came, its source gives {source.output.shape}.")
    return Row(
        name=source.name,
        size_bytes=source.path.stat().st_size,
        facts=msgspec.convert(model["conversion"], ConversionFacts),
        ready_s=ready_s,
        answer=in_words(body["predictions"][0], source),
        answer_apart=share(float(np.abs(given - source.output).max()), float(np.abs(source.output).max())),
    )


def in_words(predictions: list[dict[str, Any]], source: Source) -> str:
    """What was found in the photograph.

    Raises:
        SystemExit: It is not what the source sees: another best class, or boxes of nothing, or outside the image.
    """
    if source.task_type == "classification":
        best = predictions[0]
        if best["class_id"] != int(source.output[0].argmax()):
            raise SystemExit(f"{source.name}: class {best['class_id']} came, its source sees another one.")
        return f"class {best['class_id']}, {best['confidence']:.2f}"
    width, height = sources.photograph().size
    for each in predictions:
        x1, y1, x2, y2 = each["box"]
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and each["class_id"] == sources.FOUND_CLASS):
            raise SystemExit(f"{source.name}: {each} is no box of what was to be found.")
    if not predictions:
        raise SystemExit(f"{source.name}: no box was found, its source sees some.")
    return f"{len(predictions)} boxes, {predictions[0]['confidence']:.2f}"


def show(rows: Iterable[Row]) -> bool:
    """Print the table; whether every goal is met."""
    table = Table(
        title=f"Files of other frameworks through the API; {os.cpu_count()} cores, {time.strftime('%F %H:%M')}"
    )
    for heading in ("file", "by its content", "MB"):
        table.add_column(heading, justify="right" if heading == "MB" else "left")
    numbers = [
        *(f"apart at {batch}" for batch in BATCHES),
        "outputs up to",
        "of that",
        "opset",
        "s",
        "peak MB",
        "ready s",
    ]
    for heading in numbers:
        table.add_column(heading, justify="right")
    for heading in ("photograph", "of that", ""):
        table.add_column(heading)
    found = list(rows)
    for row in found:
        table.add_row(*cells(row))
    Console(width=200).print(table)
    print(
        f"apart: largest absolute difference between the source and its ONNX, at that batch, on seeded random input. "
        f"of that: as a share of the largest output; goal: at most {GOAL:g}, for the answer too. s, peak MB: of the "
        "conversion's own process. ready s: from the upload's first byte until the model can be used."
    )
    return not any(row.missed for row in found)


def cells(row: Row) -> list[str]:
    """A line of the table."""
    facts = row.facts
    apart = {each.batch: f"{each.max_abs_diff:.1e}" for each in facts.parity}
    return [
        row.name,
        facts.source,
        f"{row.size_bytes / MB:.1f}",
        *(apart.get(batch, "") for batch in BATCHES),
        f"{row.largest:.3g}",
        f"{row.apart:.1e}",
        str(facts.opset),
        f"{facts.seconds:.1f}",
        f"{facts.peak_memory_mb:.0f}",
        f"{row.ready_s:.1f}",
        row.answer,
        f"{row.answer_apart:.1e}",
        f"SHORT: {', '.join(row.missed)}" if row.missed else "met",
    ]


def measured(running: Platform) -> Iterator[Row]:
    """Each file in turn."""
    photograph = sources.photograph()
    buffer = io.BytesIO()
    photograph.save(buffer, "PNG")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for make in sources.of_pytorch(folder, photograph):
            yield through(running, make(), buffer.getvalue())
        if config.tensorflow_python() is None:
            print(f"Files of TensorFlow are left out: {config.NO_TENSORFLOW}")
            return
        for source in sources.of_keras(folder, photograph):
            yield through(running, source, buffer.getvalue())


def main() -> None:
    """Measure, print."""
    rows = []
    with platform() as running:
        for row in measured(running):
            rows.append(row)
            print(f"{row.name}: ready in {row.ready_s:.1f} s", flush=True)
    sys.exit(not show(rows))


if __name__ == "__main__":
    main()
