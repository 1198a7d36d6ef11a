"""LCBench's surrogate: the validation accuracy a training would have reached, in microseconds instead of minutes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.genes import FloatGene, Gene, Genome, IntGene
from trainer.evolution import mutate
from trainer.genome import Space

FOLDER = Path(__file__).parent / "lcbench"
EPOCHS = 52
NUMBERS = (
    "epoch",
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "num_layers",
    "max_units",
    "max_dropout",
)
"""In the order of the model's input."""
ACCURACY = 1
"""Of the model's six outputs: validation accuracy in percent."""

SAMPLES, KEPT, ROUNDS = 20_000, 50, 60

Accuracies = npt.NDArray[np.float64]


class Surrogate:
    """The model and what it takes. `tune` are the tasks anything may be chosen by, `judge` those nothing was."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(FOLDER / "model.onnx", options)
        self._codes = json.loads((FOLDER / "encoding.json").read_text())["OpenML_task_id"]
        listed = json.loads((FOLDER / "config_space.json").read_text())["hyperparameters"]
        found = {item["name"]: item for item in listed}
        tasks: list[str] = found["OpenML_task_id"]["choices"]
        self.tune, self.judge = tasks[:10], tasks[10:]
        self.genes = {name: _gene(found[name]) for name in NUMBERS if name != "epoch"}
        self.space = Space(self.genes)

    def accuracy(self, tasks: Sequence[str], genomes: Sequence[Genome], epochs: Sequence[int]) -> Accuracies:
        """Percent, a task with a genome and so many epochs each."""
        rows = [
            [length, *(genome[name] for name in NUMBERS[1:])] for genome, length in zip(genomes, epochs, strict=True)
        ]
        codes = np.array([[self._codes[task]] for task in tasks], np.int32)
        given = {"x_cat": codes, "x_cont": np.array(rows, np.float32)}
        answer: Accuracies = self._session.run(None, given)[0][:, ACCURACY].astype(np.float64)
        return answer

    def reference(self, task: str) -> tuple[float, float, float]:
        """The best accuracy that is known, after 50,000 trainings; the middle and the worst of evenly drawn genomes."""
        rng = random.Random(task)
        points = [tuple(rng.random() for _ in self.space.names) for _ in range(SAMPLES)]
        values = self._at(task, points)
        middle, worst = float(np.median(values)), float(values.min())
        step = 0.1
        for _ in range(ROUNDS):
            best = np.argsort(-values)[:KEPT]
            parents = [points[place] for place in best]
            children = [mutate(rng, self.space, parent, 0.3, step) for parent in parents for _ in range(10)]
            points = parents + children
            values = np.concatenate([values[best], self._at(task, children)])
            step *= 0.95
        return float(values.max()), middle, worst

    def _at(self, task: str, points: Sequence[tuple[float, ...]]) -> Accuracies:
        genomes = [self.space.decode(point) for point in points]
        return self.accuracy([task] * len(genomes), genomes, [EPOCHS] * len(genomes))


def _gene(item: dict[str, Any]) -> Gene:
    kind = IntGene if item["type"] == "uniform_int" else FloatGene
    return kind(low=item["lower"], high=item["upper"], log=item["log"])
