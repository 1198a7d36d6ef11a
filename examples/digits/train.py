"""Trains the example model: a small convolutional network that reads 8x8 grey images of handwritten digits.

Writes what the example needs beside itself: `digits.onnx`, `preprocessing.json`, `labels.json` and `held-out/*.png`.
Run it with `pip install -e '.[cpu,train]'` and `python examples/digits/train.py`; about fifteen seconds on one core.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from dataset import SEED, Split, load
from PIL import Image
from torch import nn

HERE = Path(__file__).resolve().parent
EPOCHS = 60
BATCH = 32
OPSET = 18
HELD_OUT_PER_DIGIT = 2


def contract(train: Split) -> dict[str, Any]:
    """The preprocessing contract, with mean and deviation of the training part."""
    scaled = train.pixels / 255
    return {
        "color": "L",
        "resize": {"height": 8, "width": 8, "mode": "stretch", "interpolation": "bilinear"},
        "scale": 1 / 255,
        "mean": [round(float(scaled.mean()), 4)],
        "std": [round(float(scaled.std()), 4)],
        "layout": "NCHW",
        "dtype": "float32",
        "scores": "logits",
    }


def to_tensor(pixels: np.ndarray, preprocessing: dict[str, Any]) -> torch.Tensor:
    """`[N, 8, 8]` uint8 to `[N, 1, 8, 8]` float32, as the contract says: (value * scale - mean) / std."""
    values = (pixels * preprocessing["scale"] - preprocessing["mean"][0]) / preprocessing["std"][0]
    return torch.from_numpy(values.astype(np.float32)[:, None])


def network() -> nn.Module:
    """Two convolutions and a linear layer: 10,026 parameters, logits out."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 4 * 4, 10),
    )


@torch.no_grad()
def accuracy(model: nn.Module, inputs: torch.Tensor, labels: np.ndarray) -> float:
    """Share of right answers."""
    model.eval()
    return float((model(inputs).argmax(1).numpy() == labels).mean())


def fit(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, validation: tuple[torch.Tensor, np.ndarray]
) -> float:
    """Train, and leave the weights of the epoch that did best on the validation part. Returns that accuracy."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    best, weights = -1.0, {}
    for _ in range(EPOCHS):
        model.train()
        for index in torch.randperm(len(inputs)).split(BATCH):
            loss = nn.functional.cross_entropy(model(inputs[index]), labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        score = accuracy(model, *validation)
        if score >= best:
            best, weights = score, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    return best


def export(model: nn.Module, path: Path) -> None:
    """One ONNX file, weights inside, with a dynamic batch axis."""
    model.eval()
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    proto = onnx.load(path)
    # The exporter notes the source line of every node, with the folders of whoever ran it.
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


@torch.no_grad()
def check_export(model: nn.Module, path: Path, inputs: torch.Tensor) -> float:
    """Largest difference between the ONNX file in ONNX Runtime and the network, one by one and all at once."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = model(inputs).numpy()
    (together,) = session.run(None, {"image": inputs.numpy()})
    one_by_one = np.concatenate([session.run(None, {"image": one.numpy()})[0] for one in inputs.split(1)])
    worst = max(np.abs(together - expected).max(), np.abs(one_by_one - expected).max())
    if worst >= 1e-5:
        raise SystemExit(f"the ONNX file differs from the network by {worst}")
    return float(worst)


def write_held_out(test: Split, folder: Path) -> None:
    """The first two of every digit in the test part as 8x8 PNG, chosen by position, not by how the network does."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    chosen = sorted(int(at) for digit in range(10) for at in np.flatnonzero(test.labels == digit)[:HELD_OUT_PER_DIGIT])
    for number, at in enumerate(chosen, start=1):
        Image.fromarray(test.pixels[at], "L").save(folder / f"{number:02d}-label-{test.labels[at]}.png")


def main() -> None:
    """Train, check, write."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    train, validation, test = load()
    preprocessing = contract(train)
    model = network()
    best = fit(
        model,
        to_tensor(train.pixels, preprocessing),
        torch.from_numpy(train.labels),
        (to_tensor(validation.pixels, preprocessing), validation.labels),
    )
    inputs = to_tensor(test.pixels, preprocessing)
    path = HERE / "digits.onnx"
    export(model, path)
    (HERE / "preprocessing.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
    (HERE / "labels.json").write_text(json.dumps([str(digit) for digit in range(10)]) + "\n")
    write_held_out(test, HERE / "held-out")
    worst = check_export(model, path, inputs)
    proto = onnx.load(path)
    print(f"parts             {len(train.labels)} train, {len(validation.labels)} validation, {len(test.labels)} test")
    print(f"parameters        {sum(p.numel() for p in model.parameters()):,}")
    print(f"validation        {best:.4f}")
    print(f"test accuracy     {accuracy(model, inputs, test.labels):.4f}")
    print(f"ONNX              {path.stat().st_size:,} bytes, opset {proto.opset_import[0].version}")
    print(f"ONNX vs. network  {worst:.1e} largest difference over the test part")


if __name__ == "__main__":
    main()
