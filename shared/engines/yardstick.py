"""A small network of convolutions that any machine can run, and as a module: a process that runs it when told to.

`python -m shared.engines.yardstick` says `farm.READY`, reads one `farm.Plan` and answers with its pace in each of its
slices, each in one line. It opens nothing of any user, and dies with its parent.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from shared import process
from shared.engines.onnxrt import loaded
from shared.farm import READY, Plan
from shared.nursery import PARENT_ENV

IMAGE = (3, 32, 32)
WARM_UP_CALLS = 5


def network(layers: int = 4, channels: int = 32) -> bytes:
    """The ONNX file: from `image`, float32 `[batch, 3, 32, 32]`, to `scores`, the mean of each channel at the end.

    Its weights are random from a seed.
    """
    random = np.random.default_rng(0)
    nodes, weights, before = [], [], "image"
    for layer in range(layers):
        inputs = IMAGE[0] if layer == 0 else channels
        values = random.standard_normal((channels, inputs, 3, 3), dtype=np.float32) / np.float32(3 * inputs**0.5)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes += [
            helper.make_node("Conv", [before, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        before = f"r{layer}"
    weights.append(numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes"))
    nodes.append(helper.make_node("ReduceMean", [before, "axes"], ["scores"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *IMAGE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", channels])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def paces(call: Callable[[], object], plan: Plan) -> list[float]:
    """Calls a second of processor time in each slice; 0 where it keeps still or came too late.

    By the wall clock others who are at work on the machine would count: of several processes each gets less of what
    they leave. Processes that share a core's units, or the memory's bandwidth, are slower by their own time as well.
    """
    found = []
    for number, mine in enumerate(plan.mine):
        begins_s = plan.begins_s + number * plan.every_s
        time.sleep(max(0.0, begins_s - time.monotonic()) if mine else 0.0)
        calls, began_s = 0, time.process_time()
        while mine and time.monotonic() < begins_s + plan.slice_s:
            call()
            calls += 1
        found.append(calls / (time.process_time() - began_s) if calls else 0.0)
    return found


def main() -> None:
    """Get ready, say so, wait for the plan, keep to it, and tell."""
    process.die_with_parent(int(os.environ[PARENT_ENV]))
    run, feeds = loaded(network()), {"image": np.zeros((1, *IMAGE), np.float32)}
    for _ in range(WARM_UP_CALLS):
        run(feeds)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(paces(lambda: run(feeds), plan)) + b"\n")


if __name__ == "__main__":
    main()
