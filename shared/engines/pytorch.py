"""PyTorch, run eagerly: the network as it was before it became ONNX, on the CPU or on CUDA."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from shared import errors, gpu, nets
from shared.engines.base import NO_GPU, Active, Engine, Feeds, Tensor
from shared.specs import Precision, TensorInfo


class PyTorch(Engine):
    """A network in channels-last order, which is the faster one; its file has weights and the network's name.

    `threads` holds for the whole process, as PyTorch has it. A child that shuts itself in calls `nets.settle` first.
    """

    name = "pytorch"
    modules = ("torch", "shared.nets.architectures", "shared.nets.weights")
    reads_onnx = False
    takes_gpu = True

    _module: Any = None
    _where: dict[str, Any]

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """Why it cannot run in this precision here; None when it can."""
        if missing := nets.missing("order again"):
            return missing.rstrip(".")
        if precision == "int8":
            return "a network of PyTorch has no INT8 here; ONNX Runtime and OpenVINO run it"
        return NO_GPU if precision == "fp16" and gpu.described() is None else None

    def _activate(self) -> Active:
        import torch

        from shared.nets import architectures, weights

        cuda = torch.cuda.is_available()
        if self.precision == "fp16" and not cuda:
            raise errors.EngineUnavailable("PyTorch in fp16 cannot run here: this build of it finds no CUDA.")
        torch.set_num_threads(self.threads)
        if cuda and self.gpu_mb is not None:  # for the whole process, as PyTorch has it
            total_mb = torch.cuda.get_device_properties(0).total_memory / 2**20
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.gpu_mb / total_mb), 0)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # FP32 is FP32
        try:
            net, about = weights.kept(self.artifact)
        except errors.BadModel as error:
            raise errors.BadModel(f"pytorch cannot load the model: {error.message}") from error
        self._where = {
            "device": torch.device("cuda:0" if cuda else "cpu"),
            "dtype": torch.float16 if self.precision == "fp16" else torch.float32,
        }
        self._module = net.module.to(**self._where, memory_format=torch.channels_last).eval()
        found = self._run(torch.zeros(1, *about.input_shape))
        device = next(self._module.parameters()).device.type.upper()
        return Active(
            inputs=[TensorInfo(name=architectures.INPUT, dtype="float32", shape=["batch", *about.input_shape])],
            outputs=[
                TensorInfo(name=name, dtype="float32", shape=["batch", *value.shape[1:]])
                for name, value in zip(architectures.output_names(len(found)), found, strict=True)
            ],
            provider=device,
            device="CUDA:0" if device == "CUDA" else device,
            asked="CUDA" if cuda else "CPU",
        )

    def _infer(self, feeds: Feeds) -> dict[str, Tensor]:
        import torch

        (images,) = feeds.values()
        found = self._run(torch.from_numpy(np.require(images, requirements=("C", "W"))))  # it refuses others
        return {info.name: value.numpy() for info, value in zip(self.outputs, found, strict=True)}

    def _run(self, images: Any) -> list[Any]:
        """On the CPU from there and back; what comes back is the caller's."""
        import torch

        from shared.nets.architectures import tensors

        with torch.inference_mode():
            given = images.to(**self._where, memory_format=torch.channels_last)
            return [value.to("cpu", torch.float32).contiguous() for value in tensors(self._module(given))]

    def _deactivate(self) -> None:
        self._module = None
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()  # what it keeps of the GPU's memory for later
