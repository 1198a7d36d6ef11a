"""What every peer runs for a request, and the bare loop too: the same decode, the same session, the same answer.

Needs NumPy, Pillow and ONNX Runtime, nothing of the platform: it is imported in the environments of the peers.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

MODEL_ENV = "PEER_MODEL"
"""Path of the ONNX file; beside it, for a model that takes images, `.json` with its preprocessing."""
TOP = 5
NULL_SHAPE = (3, 16, 16)
"""Of the model that costs nothing: its body is 768 bytes, one a value."""

Array = npt.NDArray[Any]


class Model:
    """An ONNX file, ready: request bodies in, answers out. Thread-safe.

    Args:
        path: The ONNX file.
        run: Runs the network on a batch instead of a session of ONNX Runtime with one thread.
    """

    def __init__(self, path: Path, run: Callable[[Array], Array] | None = None) -> None:
        contract = path.with_suffix(".json")
        self._contract = json.loads(contract.read_text()) if contract.exists() else None
        self._run = run or session(path)

    def answer(self, body: bytes) -> dict[str, Any]:
        """Of one request."""
        return self.answers([body])[0]

    def answers(self, bodies: Sequence[bytes]) -> list[dict[str, Any]]:
        """Of several, in one run."""
        return [self._told(row) for row in self._run(np.stack([self.tensor(body) for body in bodies]))]

    def tensor(self, body: bytes) -> Array:
        """The input for one body: the bytes as they are, or the image they are, cut and normalised."""
        if self._contract is None:
            return np.frombuffer(body, np.uint8).reshape(NULL_SHAPE)
        return prepared(Image.open(io.BytesIO(body)).convert("RGB"), self._contract)

    def _told(self, row: Array) -> dict[str, Any]:
        if self._contract is None:
            return {"outputs": row.tolist()}
        shares = np.exp(row - row.max())
        shares /= shares.sum()
        best = np.argsort(-row)[:TOP]
        return {"predictions": [{"class_id": int(at), "confidence": float(shares[at])} for at in best]}


def prepared(image: Image.Image, contract: dict[str, Any]) -> Array:
    """The shorter side scaled, the centre cut out, normalised: planes of float32.

    Rounded as torchvision does it, but in one step: only what is kept is scaled.
    """
    side, scale_to = contract["resize"]["width"], contract["resize"]["scale_to"]
    scales = [length / int(scale_to * length / min(image.size)) for length in image.size]
    starts = [round((length / scale - side) / 2) for length, scale in zip(image.size, scales, strict=True)]
    (left, right), (top, bottom) = (
        (start * scale, (start + side) * scale) for start, scale in zip(starts, scales, strict=True)
    )
    small = image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    mean, std = (np.asarray(contract[name], np.float32)[:, None, None] for name in ("mean", "std"))
    planes = np.empty((3, side, side), np.float32)
    np.multiply(np.asarray(small).transpose(2, 0, 1), np.float32(contract["scale"]) / std, out=planes)
    planes -= mean / std
    return planes


def session(path: Path) -> Callable[[Array], Array]:
    """ONNX Runtime with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    loaded = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = loaded.get_inputs()[0].name

    def run(batch: Array) -> Array:
        found: Array = loaded.run(None, {name: batch})[0]
        return found

    return run


def served() -> Model:
    """The model that this process was started for."""
    return Model(Path(os.environ[MODEL_ENV]))
