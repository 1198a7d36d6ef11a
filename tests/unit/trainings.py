"""Trainings as they would have come out, drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from reporter import SearchRecord, TrainingRecord
from shared.genes import ChoiceGene, FloatGene, Genes, IntGene, Objective, SearchSpec
from shared.specs import EpochFigures, HyperParameters, TrainingResult, TrainingSpec, WorstSample
from shared.trials import Finalist, Latencies, Latency, Order, Outcome, Result, Stage, Told, Trial

DIGITS = [str(number) for number in range(10)]
USED = HyperParameters(
    learning_rate=0.001, weight_decay=0.01, dropout_rate=0.2, augmentation="light", image_size=32, patience=5
)


def confusion(images: Sequence[int], shares: Sequence[float], seed: int = 0) -> list[tuple[int, int, int]]:
    """Of each class so many images and such a share recognised; the others fall where the generator has it."""
    generator = np.random.default_rng(seed)
    found: dict[tuple[int, int], int] = {}
    for true, (count, share) in enumerate(zip(images, shares, strict=True)):
        right = round(count * share)
        others = [other for other in range(len(images)) if other != true]
        answers = [true] * right + [int(each) for each in generator.choice(others, count - right)]
        for said in answers:
            found[true, said] = found.get((true, said), 0) + 1
    return [(true, said, count) for (true, said), count in sorted(found.items())]


def epochs(
    count: int = 20, best: float = 0.97, train: float = 0.98, seed: int = 0, peak: int | None = None
) -> list[EpochFigures]:
    """Curves that rise towards `best` and, from epoch `peak` on, turn."""
    generator, found = np.random.default_rng(seed), []
    for epoch in range(1, count + 1):
        rest = float(np.exp(-4 * epoch / count))
        lost = 0.0 if peak is None else max(0, epoch - peak) * 0.004
        noise = float(generator.normal(0, 0.004))
        found.append(
            EpochFigures(
                epoch=epoch,
                loss=2.3 * rest + 0.02,
                accuracy=train * (1 - rest),
                val_loss=2.3 * rest + 0.08 + 5 * lost,
                val_accuracy=min(1.0, best * (1 - rest) - lost + noise),
                learning_rate=0.001 * (1 - epoch / (count + 1)),
                seconds=1.2,
            )
        )
    return found


def result(
    shares: Sequence[float] = (0.98,) * 8 + (0.9, 0.85),
    images: Sequence[int] | None = None,
    *,
    names: Sequence[str] | None = None,
    curve: list[EpochFigures] | None = None,
    **changes: Any,
) -> TrainingResult:
    """A classifier's, by default of the digits; `best_epoch` follows from the curve."""
    curve = curve or epochs()
    best = max(curve, key=lambda each: (each.val_accuracy, -each.val_loss))
    images = images or [36] * len(shares)
    answers = confusion(images, shares)
    wrong = [pair for pair in answers if pair[0] != pair[1]]
    made = TrainingResult(
        classes=list(names or (DIGITS if len(shares) == len(DIGITS) else map(str, range(len(shares))))),
        epochs=curve,
        best_epoch=best.epoch,
        final_accuracy=best.val_accuracy,
        final_loss=best.val_loss,
        confusion=answers,
        worst=[
            WorstSample(
                member=f"val/{true}/{place:05}.png",
                time_s=None,
                class_id=true,
                predicted=said,
                confidence=0.9 - place / 100,
                loss=4.2 - place / 4,
            )
            for place, (true, said, _) in enumerate(wrong[:12])
        ],
        hyperparams=USED,
        seed=0,
        num_train=1437,
        num_val=sum(images),
        stopped_early=False,
        duration_s=24.6,
        images_per_s=1170.0,
        device="CPU",
        threads=2,
        versions={"torch": "2.9.1", "numpy": "2.3.5"},
        notes=[],
    )
    return msgspec.structs.replace(made, **changes)


def record(found: TrainingResult | None = None, **changes: Any) -> TrainingRecord:
    """The record of a training of cnn32 on the digits."""
    ordered = HyperParameters(dropout_rate=0.2)
    spec = TrainingSpec(model_id="mdl_1", dataset_id="dst_1", max_epochs=20, hyperparams=ordered)
    made = TrainingRecord(
        id="job_1",
        created_at="2026-01-31T08:15:30.250Z",
        task_type="classification",
        model_id="mdl_1",
        model="cnn32",
        dataset_id="dst_1",
        dataset="digits",
        dataset_sha256="ab" * 32,
        result_model_id="mdl_2",
        spec=spec,
        result=found or result(),
    )
    return msgspec.structs.replace(made, **changes)


GENES: Genes = {
    "learning_rate": FloatGene(low=1e-5, high=1e-1, log=True),
    "batch_size": IntGene(low=8, high=128, log=True),
    "optimizer": ChoiceGene(choices=("sgd", "adam", "adamw")),
    "dropout_rate": FloatGene(low=0.0, high=0.6),
    "image_size": ChoiceGene(choices=(16, 24, 32)),
}
LATENCIES = Latencies(
    engine="onnxruntime",
    device="CPU",
    threads=2,
    sizes=[Latency(image_size=size, latency_ms=size / 40, rounds_ms=[size / 40, size / 39]) for size in (16, 24, 32)],
)


def search(
    objectives: tuple[Objective, ...] = ("accuracy",), *, population: int = 12, generations: int = 5, **changes: Any
) -> SearchRecord:
    """A search whose trials get better, with chance beside it; every tenth trial fails."""
    generator, told, born = np.random.default_rng(1), list[Told](), population * generations
    for number in range(2 * born):
        stage: Stage = "search" if number < born else "baseline"
        generation = number // population if stage == "search" else 0
        rate = float(f"{10 ** generator.uniform(-5, -1):.3g}")
        genome = {
            "learning_rate": rate,
            "batch_size": int(generator.integers(8, 129)),
            "optimizer": ("sgd", "adam", "adamw")[int(generator.integers(3))],
            "dropout_rate": float(f"{generator.uniform(0, 0.6):.3g}"),
            "image_size": 16 + 8 * (number % 3),
        }
        fit = 0.9 - 0.03 * abs(math.log10(rate) + 3) + 0.01 * generation + float(generator.normal(0, 0.01))
        fit += (number % 3) / 50
        values = (fit, LATENCIES.of(genome))[: len(objectives)]
        trial = Trial(
            number=number, stage=stage, individual=number, generation=generation, genome=genome, seed=0, epochs=9
        )
        told.append(Told(trial=trial, result=Result(reason="no") if number % 10 == 9 else Result(values=values)))
    return msgspec.structs.replace(_search(told, objectives, population, generations), **changes)


def _search(told: list[Told], objectives: tuple[Objective, ...], population: int, generations: int) -> SearchRecord:
    found = [each for each in told if each.result.values is not None]
    ranked = sorted(found, key=lambda each: each.result.values or (), reverse=True)
    best = [one for one in ranked if one.trial.stage == "search"][:2]
    best += [one for one in ranked if one.trial.stage == "baseline"][:2]
    ours = [each for each in found if each.trial.stage == "search"]
    history = [
        max(each.result.values or () for each in ours if each.trial.generation <= generation)
        for generation in range(generations)
    ]
    return SearchRecord(
        order=Order(
            spec=SearchSpec(population_size=population, generations=generations, objectives=objectives, baseline=True),
            genes=GENES,
            epochs=9,
            seed=0,
        ),
        told=told,
        outcome=Outcome(
            best=best[0].trial.genome,
            front=[(each.trial.genome, each.result.values or ()) for each in ours if _is_first(each, ours)],
            history=list(history),
            finalists=[
                Finalist(
                    individual=each.trial.number,
                    stage=each.trial.stage,
                    genome=each.trial.genome,
                    found=each.result.values or (),
                    again=[_again(each, 0.002 * seed) for seed in (1, 2, 3)],
                )
                for each in best
            ],
            evaluations=len(told) // 2,
            failed=sum(each.result.values is None for each in told),
            epochs=9 * len(told) // 2,
            baseline_epochs=9 * len(told) // 2,
            baseline_best=next(each.result.values for each in ranked if each.trial.stage == "baseline"),
            stopped=None,
        ),
        latencies=LATENCIES if len(objectives) > 1 else None,
    )


def _again(told: Told, worse: float) -> tuple[float, ...]:
    """The same, less accurate."""
    accuracy, *latency = told.result.values or ()
    return (accuracy - worse, *latency)


def _is_first(one: Told, others: Sequence[Told]) -> bool:
    """Whether no other is more accurate and as quick."""
    accuracy, *rest = one.result.values or ()
    values = (each.result.values or () for each in others)
    return not any(theirs > accuracy and more <= rest for theirs, *more in values)
