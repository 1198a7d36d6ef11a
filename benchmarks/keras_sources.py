"""Keras files and a frozen graph, seeded; run by TensorFlow's Python: `python -m benchmarks.keras_sources FOLDER`.

The folder has `photograph.npy`, the input; beside each file comes a `.npy` with what the model gives for it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

SEED = 0
CLASSES = 10


def frozen(model: Any) -> bytes:
    """The graph with its weights as constants: what a `.pb` file holds."""
    call = tf.function(model).get_concrete_function(tf.TensorSpec([None, *model.input_shape[1:]], name="image"))
    content: bytes = convert_variables_to_constants_v2(call).graph.as_graph_def().SerializeToString()
    return content


def liven(model: Any, photograph: Any) -> None:
    """As after training: statistics of what passes, without which outputs are all the same."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(np.random.uniform(0.8, 1.2, layer.gamma.shape))
            layer.beta.assign(np.random.normal(0, 0.1, layer.beta.shape))
            layer.momentum = 0.0
    noise = np.random.normal(0, 1, photograph.shape).astype(np.float32)
    model(np.concatenate([photograph, noise]), training=True)


def main(folder: Path) -> None:
    """Make the three files."""
    keras.utils.set_random_seed(SEED)
    photograph = np.load(folder / "photograph.npy")
    for name, make in (
        ("keras MobileNetV2.keras", keras.applications.MobileNetV2),
        ("keras EfficientNetB0.h5", keras.applications.EfficientNetB0),
        ("keras ResNet50.pb", keras.applications.ResNet50),
    ):
        model = make(weights=None, classes=CLASSES, input_shape=(224, 224, 3))
        liven(model, photograph)
        path = folder / name
        if path.suffix == ".pb":
            path.write_bytes(frozen(model))
        else:
            model.save(path)
        np.save(path.with_suffix(".npy"), model(photograph, training=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
