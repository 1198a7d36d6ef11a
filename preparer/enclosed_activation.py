"""The child that tries a deployment: first it shuts itself in, then it loads the model and replays golden samples."""

from __future__ import annotations

from pathlib import Path

from preparer import Activated, ActivateOrder
from shared import child, errors, machine, nets, sandbox
from shared.artifacts import intact

GPUS = "nvidia*"


def attempt(order: ActivateOrder, report: child.Report) -> Activated:
    """Make the deployment ready as an inference process will, with its files and nothing else in reach.

    Not shut in where there is a GPU: what its driver needs to have open was never tried in there.

    Raises:
        errors.AppError: It cannot serve; the message says why.
    """
    fingerprint = machine.system_info().fingerprint  # reads what is out of reach afterwards
    if not any(Path("/dev").glob(GPUS)):
        files = [Path(path) for path in (order.onnx, order.golden) if path]
        sandbox.enter([Path(__file__).parent, *files])
    if not intact(Path(order.onnx)):
        raise errors.BadModel("The file that would serve is gone or was changed on the disk. Upload the model again.")
    if order.engine == "pytorch":
        nets.settle()
    from shared.runtime import Runtime, Serving  # its libraries start threads, which must be inside as well

    fields = {name: getattr(order, name) for name in order.__struct_fields__}
    paths = {"onnx": Path(order.onnx), "golden": Path(order.golden) if order.golden else None}
    runtime = Runtime(Serving(**fields | paths))
    report({"stage": f"loading {order.engine} in {order.precision}"})
    runtime.activate()
    return Activated(provider=runtime.provider, fingerprint=fingerprint, notes=[_checked(order)])


def _checked(order: ActivateOrder) -> str:
    if order.golden is None:
        return "It was loaded and run on zeros; no benchmark here took golden samples of this engine with this file."
    from shared import golden

    samples = golden.read(Path(order.golden).read_bytes())
    count = next(iter(samples.inputs.values())).shape[0]
    return f"It answers {count} golden samples ({samples.source}) as it did when the benchmark checked it."


if __name__ == "__main__":
    child.main(ActivateOrder, attempt)
