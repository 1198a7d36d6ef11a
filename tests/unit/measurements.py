"""Measurement sets as a benchmark would write them, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from shared.specs import (
    BenchmarkSpec,
    Block,
    Candidate,
    Constraint,
    EngineName,
    MeasuredModel,
    MeasurementSet,
    Series,
    SystemInfo,
    TensorInfo,
)

PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "openvino": "CPU"}


def candidate(engine: EngineName, batch: int = 1, threads: int = 2) -> Candidate:
    return Candidate(engine=engine, precision="fp32", batch_size=batch, threads=threads)


def block(
    number: int, generator: np.random.Generator, centre_ms: float, calls: int, *, memory_mb: float, drift: float = 0.0
) -> Block:
    """Calls of about `centre_ms` with a tail to the right; `drift` is the spread from round to round."""
    centre = float(centre_ms * np.exp(drift * generator.standard_normal()))
    spread = generator.gamma(2.0, 0.03, calls) + (generator.random(calls) < 0.02) * generator.gamma(2.0, 0.2, calls)
    latencies = [int(value) for value in centre * (1 + spread) * 1e6]
    return Block(
        round=number,
        load_ms=centre * 40 + float(generator.gamma(4, 2)),
        warmup_calls=30,
        steady=True,
        latencies_ns=latencies,
        elapsed_ns=sum(latencies) + 2_000 * calls,
        cpu_util_pct=190 + float(generator.normal(0, 2)),
        memory_mb=memory_mb + float(generator.gamma(2, 0.3)),
    )


def measured(
    of: Candidate,
    centre_ms: float,
    *,
    memory_mb: float = 60.0,
    rounds: int = 12,
    calls: int = 700,
    drift: float = 0.01,
    artifact_bytes: int = 51_200,
    seed: int = 7,
) -> Series:
    """A measured candidate; its draws depend on its key and the seed alone."""
    generator = np.random.default_rng([seed, *of.key.encode()])
    return Series(
        candidate=of,
        status="measured",
        provider=PROVIDERS.get(of.engine, "CPU"),
        device="CPU",
        artifact_bytes=artifact_bytes,
        blocks=[
            block(number + 1, generator, centre_ms, calls // rounds, memory_mb=memory_mb, drift=drift)
            for number in range(rounds)
        ],
    )


def slowed(series: Series, by: dict[int, float]) -> Series:
    """The same, some rounds so many times as slow."""
    blocks = [_slowed(block, by.get(block.round, 1.0)) for block in series.blocks]
    return msgspec.structs.replace(series, blocks=blocks)


def _slowed(block: Block, by: float) -> Block:
    latencies = [int(ns * by) for ns in block.latencies_ns]
    return msgspec.structs.replace(block, latencies_ns=latencies, elapsed_ns=int(block.elapsed_ns * by))


def unavailable(of: Candidate, reason: str) -> Series:
    return Series(candidate=of, status="unavailable", reason=reason, artifact_bytes=51_200)


def series() -> list[Series]:
    """Two engines at batch 1 and 8, two that cannot run here."""
    found = [
        measured(candidate("onnxruntime", 1), 1.18, memory_mb=61),
        measured(candidate("onnxruntime", 8), 6.9, memory_mb=74),
        measured(candidate("openvino", 1), 1.52, memory_mb=118),
        measured(candidate("openvino", 8), 6.1, memory_mb=131),
    ]
    for batch in (1, 8):
        found.append(
            unavailable(candidate("tensorrt", batch), "TensorRT needs an NVIDIA GPU, and this machine has none")
        )
        found.append(unavailable(candidate("pytorch", batch), "PyTorch is not installed; install the extra `train`"))
    return found


CONSTRAINTS = (
    Constraint(metric="latency_p95_ms", op="<=", value=5.0),
    Constraint(metric="throughput_fps", op=">=", value=650.0),
)


def measurement_set(
    found: Sequence[Series] | None = None,
    constraints: tuple[Constraint, ...] = CONSTRAINTS,
    name: str = "digits",
    conditions: Sequence[str] = (),
    **config: object,
) -> MeasurementSet:
    """A finished benchmark; `config` are fields of `BenchmarkSpec`."""
    inputs = [TensorInfo(name="image", dtype="float32", shape=["batch", 1, 28, 28])]
    order = {"model_id": "mdl_0193a5b2c7e04f1c9a2b7d01", "constraints": constraints} | config
    return MeasurementSet(
        id="job_0193a5b2c7e04f1c9a2b7d02",
        created_at="2026-01-31T08:15:30.250Z",
        model=MeasuredModel(
            id="mdl_0193a5b2c7e04f1c9a2b7d01",
            name=name,
            task_type="classification",
            sha256="c0ab4f7d19e2586b3ad0e7f1524c9b8803d6a1ef77b2c45e90f8d3126a5b7ce4",
            file_size=51_200,
            parameters=12_506,
            inputs=inputs,
            preprocessing_hash="9b1c33f0a2d4e6f8",
        ),
        config=msgspec.convert(order, BenchmarkSpec),
        system=SystemInfo(
            fingerprint="5d41402abc4b2a76",
            cpu="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (x86_64)",
            cores=2,
            memory_mb=7_950,
            os="Debian GNU/Linux 12 (bookworm), kernel 6.1.0",
            python="3.11.2",
            gpu=None,
            versions={"onnxruntime": "1.31.1", "openvino": "2026.4.1", "numpy": "2.4.6", "onnx": "1.23.2"},
        ),
        conditions=list(conditions),
        series=list(series() if found is None else found),
    )
