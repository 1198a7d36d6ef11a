"""Makes the TensorFlow files of `test_from_tensorflow.py`; runs in that environment: `python -m ... FOLDER TRACE`.

TRACE is a file that the files with code in them would make.
"""

from __future__ import annotations

import base64
import io
import json
import marshal
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

FOLDER, TRACE = Path(sys.argv[1]), Path(sys.argv[2])
Edit = Callable[[dict[str, Any]], None]


def cnn(image: Any, pool: bool = True) -> Any:
    features = layers.Conv2D(4, 3, strides=2, activation="relu")(image)
    features = layers.BatchNormalization()(features)
    features = layers.GlobalAveragePooling2D()(features) if pool else layers.Flatten()(features)
    return layers.Dense(5, activation="softmax", name="scores")(features)


def keras_models() -> None:
    image = keras.Input((16, 16, 3), name="image")
    model = keras.Model(image, cnn(image))
    model.compile("adam", "categorical_crossentropy")
    model.save(FOLDER / "cnn.keras")
    model.save(FOLDER / "cnn.h5")
    model.save_weights(FOLDER / "only.weights.h5")
    sequential = [keras.Input((16, 16, 3), name="image"), layers.Flatten(), layers.Dense(5, "softmax", name="scores")]
    keras.Sequential(sequential).save(FOLDER / "sequential.keras")
    keras.Sequential(sequential).save(FOLDER / "sequential.h5")
    fixed = keras.Input(batch_shape=(4, 16, 16, 3), name="image")
    keras.Model(fixed, cnn(fixed)).save(FOLDER / "fixed.keras")
    free = keras.Input((None, None, 3), name="image")
    keras.Model(free, cnn(free)).save(FOLDER / "open.keras")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((4,), name="right")
    joined = layers.Concatenate()([layers.Flatten()(left), right])
    two = keras.Model({"left": left, "right": right}, {"a": layers.Dense(2, name="a")(joined), "b": right * 2})
    two.save(FOLDER / "two.keras")
    small: dict[str, Any] = {"weights": None, "input_shape": (32, 32, 3), "classes": 7}
    keras.applications.EfficientNetB0(**small).save(FOLDER / "efficientnet.keras")
    keras.applications.MobileNetV2(alpha=0.35, **small).save(FOLDER / "mobilenet.h5")
    keras.config.set_dtype_policy("mixed_float16")
    half = keras.Input((16, 16, 3), name="image")
    keras.Model(half, cnn(half)).save(FOLDER / "half.keras")
    keras.config.set_dtype_policy("float32")


def keras_with_code() -> None:
    doubled = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2)])
    doubled.save(FOLDER / "lambda.keras")
    doubled.save(FOLDER / "lambda.h5")
    code = compile(f"open({str(TRACE)!r}, 'w')", "m", "eval")
    bytecode = base64.b64encode(marshal.dumps(code)).decode()
    edited_h5("marshalled.h5", lambda config: first(config, "Conv2D")["config"].update(activation=marshalled(bytecode)))
    edited("marshalled.keras", lambda config: first(config, "Conv2D")["config"].update(activation=marshalled(bytecode)))
    edited("module.keras", lambda config: first(config, "Dense").update(module="os", class_name="system"))
    edited("custom.keras", lambda config: first(config, "Dense").update(module=None, registered_name="mine>Dense"))
    edited("savedmodel.keras", lambda config: first(config, "Dense").update(class_name="TFSMLayer"))
    edited("function.keras", lambda config: first(config, "Dense")["config"].update(activation=get_file()))
    edited("lookup.keras", lambda config: first(config, "Dense").update(lookup()))


class Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {TRACE}",)


def marshalled(bytecode: str) -> dict[str, Any]:
    return {"class_name": "__lambda__", "config": {"value": [bytecode, None, None]}}


def get_file() -> dict[str, Any]:
    return {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}


def lookup() -> dict[str, Any]:
    """A layer that reads a file of its own."""
    config = {"vocabulary": "/etc/passwd", "name": "scores"}
    return {"class_name": "StringLookup", "config": config, "registered_name": None, "build_config": None}


def first(config: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == kind)


def edited(name: str, edit: Edit, extra: dict[str, bytes] | None = None) -> None:
    """The small archive with another configuration, and with members beside it."""
    with zipfile.ZipFile(FOLDER / "cnn.keras") as source, zipfile.ZipFile(FOLDER / name, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            if member == "config.json":
                config = json.loads(content)
                edit(config)
                content = json.dumps(config).encode()
            target.writestr(member, content)
        for member, content in (extra or {}).items():
            target.writestr(member, content)


def edited_h5(name: str, edit: Edit) -> None:
    (FOLDER / name).write_bytes((FOLDER / "cnn.h5").read_bytes())
    with h5py.File(FOLDER / name, "a") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config)
        file.attrs["model_config"] = json.dumps(config)


def broken_keras() -> None:
    whole = (FOLDER / "cnn.keras").read_bytes()
    (FOLDER / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (FOLDER / "flipped.keras").write_bytes(whole[:16_000] + b"\xff" * 2000 + whole[18_000:])
    whole = (FOLDER / "cnn.h5").read_bytes()
    (FOLDER / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (FOLDER / "garbage.h5").write_bytes(whole[:8] + np.random.default_rng(0).bytes(20_000))
    edited("slip.keras", lambda _: None, {"../../slipped": b"out"})
    edited("asset.keras", lambda _: None, {"assets/words.txt": b"word"})
    edited("huge.keras", lambda config: first(config, "Dense")["config"].update(units=10**12))
    edited("large.keras", lambda config: first(config, "Dense")["config"].update(units=2 * 10**9))
    (FOLDER / "deep.keras").write_bytes(archive({"config.json": b"[" * 100_000, "model.weights.h5": b""}))
    (FOLDER / "other.keras").write_bytes(archive({"archive/data.pkl": pickle.dumps(Payload())}))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("config.json", bytes(2**27))
        made.writestr("model.weights.h5", b"")
    (FOLDER / "bomb.keras").write_bytes(bomb.getvalue())
    arrays("linked.h5", lambda group: group.__setitem__("kernel", h5py.ExternalLink("/etc/passwd", "/")))
    arrays("outside.h5", lambda group: group.create_dataset("k", (9,), "u1", external=[("/etc/passwd", 0, 9)]))
    arrays("fill.h5", lambda group: group.create_dataset("kernel", (10**12,), "f4", chunks=(1024,)))


def archive(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    return made.getvalue()


def arrays(name: str, add: Callable[[h5py.Group], object]) -> None:
    (FOLDER / name).write_bytes((FOLDER / "cnn.h5").read_bytes())
    with h5py.File(FOLDER / name, "a") as file:
        add(file["model_weights"])


def graphs() -> None:
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 4)).astype(np.float32)

    def conv(image: Any) -> Any:
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME")), [1, 2], name="scores")

    whole = graph("cnn.pb", conv, image=(None, 8, 8, 3))
    (FOLDER / "cut.pb").write_bytes(whole[: len(whole) // 2])
    graph("one.pb", lambda image: tf.reshape(image, [1, 192], name="flat"), image=(None, 8, 8, 3))
    graph("open.pb", conv, image=(None, None, None, 3))
    graph("shapeless.pb", tf.nn.relu, features=None)
    graph("file.pb", lambda image: (tf.io.read_file("/etc/passwd"), image)[1] + 1.0, image=(None, 4))
    graph("random.pb", lambda image: image + tf.random.uniform((4,)), image=(None, 4))
    graph("many.pb", lambda image: [image + float(n) for n in range(20)], image=(None, 4))
    graph("leftover.pb", tf.nn.l2_loss, t=(None, 4))
    edited_pb("loop.pb", lambda made: made.library.function.add().signature.__setattr__("name", "body"))
    edited_pb("variable.pb", lambda made: made.node.add(name="w", op="VarHandleOp"))
    edited_pb("splat.pb", splat)
    edited_pb("cycle.pb", lambda made: made.node[-1].input.__setitem__(0, made.node[-1].name))
    saved = SavedModel(saved_model_schema_version=1)
    saved.meta_graphs.add().graph_def.node.add(name="x", op="Placeholder")
    (FOLDER / "saved_model.pb").write_bytes(saved.SerializeToString())
    (FOLDER / "garbage.pb").write_bytes(np.random.default_rng(0).bytes(5000))


def graph(name: str, compute: Callable[..., Any], **inputs: Any) -> bytes:
    """A graph of float32 placeholders, everything in it kept."""
    made = tf.Graph()
    with made.as_default():
        compute(*(tf.compat.v1.placeholder(tf.float32, shape, name) for name, shape in inputs.items()))
    content: bytes = made.as_graph_def().SerializeToString()
    (FOLDER / name).write_bytes(content)
    return content


def edited_pb(name: str, edit: Callable[[Any], object]) -> None:
    made = tf.compat.v1.GraphDef.FromString((FOLDER / "cnn.pb").read_bytes())
    edit(made)
    (FOLDER / name).write_bytes(made.SerializeToString())


def splat(made: Any) -> None:
    """One stored value that stands for all of an array's."""
    node = made.node.add(name="splat", op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.dtype = tf.float32.as_datatype_enum
    node.attr["value"].tensor.tensor_shape.dim.add(size=10**12)
    node.attr["value"].tensor.float_val.append(0.5)


def frozen_keras() -> None:
    model = keras.saving.load_model(FOLDER / "cnn.keras", compile=False)
    function = tf.function(lambda image: model(image, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec((None, 16, 16, 3), tf.float32, name="image"))
    content = convert_variables_to_constants_v2(concrete).graph.as_graph_def().SerializeToString()
    (FOLDER / "keras.pb").write_bytes(content)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    keras_models()
    keras_with_code()
    broken_keras()
    graphs()
    frozen_keras()
