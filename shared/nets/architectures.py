"""Architectures by name: `cnn32`, `yolov8n` to `yolov8x`, torchvision's classifiers, `timm/` and a name of timm's."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from shared import errors
from shared.nets.yolov8 import SCALES, YOLOv8
from shared.specs import Architecture, Detection, Preprocessing, Resize

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TIMM = "timm/"
TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
"""timm takes addresses and folders as well; those have other characters."""
DETECTORS = {f"yolov8{scale}": scale for scale in SCALES}
CLASSES = {"cnn32": 10, **dict.fromkeys(DETECTORS, 80)}
IMAGENET_CLASSES = 1000
MAX_CLASSES = 65_536
LIKELY = ("resnet", "mobilenet", "efficientnet_b")
HEAVY = "regnet"
"""These cannot be built without memory, up to 2.6 GB."""
TINY = 1e-30
"""Variance of a layer that is silent: something to take a logarithm of."""
COUNTERS = ("num_batches_tracked", "n_averaged")
"""Ends of names that count steps and play no part in a prediction; old files lack them."""
MARK = 7919
"""A number of classes that no other size of a weight equals, so that it shows which weight is the head."""


INPUT, OUTPUT = "images", "output"
"""Names of a network's tensors, as ONNX and as it is run here."""


class Net(NamedTuple):
    """A network with its weights: in eval mode, float32, on the CPU."""

    module: nn.Module
    architecture: Architecture | None
    """None for a TorchScript archive, which is its own architecture: it can be converted, not trained."""
    labels: list[str] | None = None
    """Names of the classes, where the file of the weights has them."""


def output_names(count: int) -> list[str]:
    """Of a network that gives so many tensors."""
    return [OUTPUT] if count == 1 else [f"{OUTPUT}{index}" for index in range(count)]


def tensors(value: object) -> list[Tensor]:
    """What a network gives, however it is nested, in one row."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def build(name: str, num_classes: int | None = None, *, seed: int = 0) -> Net:
    """A network with its initial weights: one name, number of classes and seed always give the same.

    Args:
        name: See `known`; `timm/` before any name of timm's.
        num_classes: Default: what the architecture was published with (10, 80 or 1000).
        seed: Of the initial weights; the random numbers of the caller are left alone.

    Raises:
        errors.InvalidInput: There is no such architecture, or it cannot have so many classes.
    """
    net = unscaled(name, num_classes, seed=seed)
    _scale(net, seed)
    return net


def unscaled(name: str, num_classes: int | None = None, *, seed: int = 0) -> Net:
    """`build` without a run of the network: to put weights into, not to be used as it is.

    Raises:
        errors.InvalidInput: There is no such architecture, or it cannot have so many classes.
    """
    classes = CLASSES.get(name, IMAGENET_CLASSES) if num_classes is None else num_classes
    if not 1 <= classes <= MAX_CLASSES:
        raise errors.InvalidInput(f"num_classes must be between 1 and {MAX_CLASSES:,}, not {classes}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _module(name, classes)
    architecture = Architecture(
        name=name,
        num_classes=classes,
        task="detection" if name in DETECTORS else "classification",
        preprocessing=_preprocessing(name, module),
    )
    return Net(module.eval(), architecture)


def _scale(net: Net, seed: int) -> None:
    """Start every normalisation with the variance that it meets, as if it had been trained for a step.

    With 1, which it starts with otherwise, what passes through a deep network shrinks from layer to layer, to 1e-14 at
    the end of EfficientNet. White noise is met, as it is what an export is compared on. A detector meets what resembles
    a photograph: its layers average noise away, so that a photograph would come out a thousand times as strong and
    drown the bias that says how rare objects are, sure of hundreds of boxes. A power of two, one a layer, comes out
    the same on every machine.
    """
    assert net.architecture is not None
    norms = [
        part
        for part in net.module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats
    ]
    if not norms:
        return

    def meet(norm: nn.Module, given: tuple[Tensor]) -> None:
        norm.running_var.fill_(2.0 ** round(math.log2(float(given[0].square().mean()) + TINY)))

    hooks = [norm.register_forward_pre_hook(meet) for norm in norms]
    generator = torch.Generator().manual_seed(seed)
    shape = net.architecture.input_shape
    noise = torch.randn(1, *shape, generator=generator)
    with torch.no_grad():
        net.module(scene(shape, generator) if net.architecture.task == "detection" else noise)
    for hook in hooks:
        hook.remove()


def scene(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """One image from 0 to 1, [1, C, H, W]: noise at every size from the whole to the pixel, as photographs have."""
    channels, height, width = shape
    sides = [2**power for power in range(1, min(height, width).bit_length())]
    patches = [torch.randn(1, channels, side, side, generator=generator) for side in sides]
    drawn = torch.stack([nn.functional.interpolate(patch, (height, width)) for patch in patches]).sum(0)
    return (drawn / math.sqrt(len(patches)) / 2 + 0.5).clamp(0, 1)


def known() -> list[str]:
    """Every name but those of timm, the most likely first."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [*CLASSES, *sorted(names, key=lambda name: not name.startswith(LIKELY))]


def published_labels(name: str) -> list[str]:
    """Names of the classes that the published weights of one of torchvision's architectures tell apart."""
    return list(torchvision.models.get_model_weights(name).DEFAULT.meta["categories"])


def num_classes_of(name: str, state: Mapping[str, Tensor]) -> int | None:
    """How many classes the head in these weights of an architecture has; None where they have no such head."""
    return next((int(state[key].shape[0]) for key in heads(name) if key in state and state[key].ndim), None)


def heads(name: str) -> list[str]:
    """Names of an architecture's weights that have a row for each class: its last layer, auxiliary ones before it.

    Raises:
        errors.InvalidInput: There is no such architecture.
    """
    return [key for key, value in skeleton(name).items() if MARK in value.shape[:1]]


def stages(module: nn.Module, heads: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """The parts at a network's top that have weights, from its input on, without its head; a sequence is its parts."""
    parts: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        inner = isinstance(child, nn.Sequential | nn.ModuleList)
        parts += [(f"{name}.{each}", part) for each, part in child.named_children()] if inner else [(name, child)]
    return [
        (name, part)
        for name, part in parts
        if next(part.parameters(), None) is not None and not any(head.startswith(f"{name}.") for head in heads)
    ]


def stage_count(net: Net) -> int | None:
    """How many stages a network has; None of one without an architecture, which nobody can take apart."""
    return None if net.architecture is None else len(stages(net.module, heads(net.architecture.name)))


def fitting(state: Mapping[str, Tensor]) -> list[str]:
    """Those of `known` whose weights have these names and shapes, whatever the number of classes."""
    return [name for name in known() if not name.startswith(HEAVY) and _fits(name, state)]


@functools.cache
def skeleton(name: str, num_classes: int = MARK) -> Mapping[str, Tensor]:
    """The weights of an architecture, as shapes without memory where it can be built so.

    Raises:
        errors.InvalidInput: There is no such architecture.
    """
    try:
        with torch.device("meta"):
            return _module(name, num_classes).state_dict()
    except NotImplementedError:  # some compute with numbers while they are built
        return _module(name, num_classes).state_dict()


def _fits(name: str, state: Mapping[str, Tensor]) -> bool:
    if not all(key.endswith(COUNTERS) for key in state.keys() ^ skeleton(name).keys()):
        return False
    classes = num_classes_of(name, state)
    return classes is not None and all(
        value.shape == state[key].shape for key, value in skeleton(name, classes).items() if key in state
    )


def _module(name: str, num_classes: int) -> nn.Module:
    if name == "cnn32":
        return Cnn32(num_classes)
    if name in DETECTORS:
        return YOLOv8(DETECTORS[name], num_classes)
    if name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM), num_classes)
    if name in known():
        more = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **more)
        return module
    raise errors.InvalidInput(_unknown(name, [*known(), *_twin_of_timm(name)]))


def _of_timm(name: str, num_classes: int) -> nn.Module:
    import timm

    if not TIMM_NAME.fullmatch(name) or not timm.is_model(name):
        raise errors.InvalidInput(_unknown(TIMM + name, (TIMM + each for each in timm.list_models())))
    try:
        module: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    except RuntimeError as error:
        raise errors.InvalidInput(f"timm cannot make {name!r}: {error}") from error
    return module


def _twin_of_timm(name: str) -> list[str]:
    """The name with timm's prefix where that alone is missing."""
    import timm

    return [TIMM + name] if TIMM_NAME.fullmatch(name) and timm.is_model(name) else []


def _unknown(name: str, names: Iterable[str]) -> str:
    if name in torchvision.models.list_models():
        return (
            f"There is no architecture {name!r} here: of torchvision, the classification models can be named. Export "
            "this one to ONNX and upload that; for detection, yolov8n to yolov8x can be named."
        )
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return (
        f"There is no architecture {name[:100]!r}.{hint} Possible are cnn32, yolov8n to yolov8x, the classification "
        "models of torchvision (resnet50) and timm/NAME for those of timm (timm/resnet50)."
    )


# --- preprocessing ----------------------------------------------------------------------------------------------------


def _preprocessing(name: str, module: nn.Module) -> Preprocessing:
    if name == "cnn32":
        return Preprocessing(resize=Resize(height=32, width=32), mean=CIFAR_MEAN, std=CIFAR_STD)
    if name in DETECTORS:
        resize = Resize(height=640, width=640, mode="letterbox")
        return Preprocessing(resize=resize, scores="probabilities", detection=Detection(format="yolo"))
    return _timm_preprocessing(module) if name.startswith(TIMM) else _torchvision_preprocessing(name)


def _torchvision_preprocessing(name: str) -> Preprocessing:
    """As the published weights of the architecture want it, so that training can start from them."""
    wanted = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    side, scale_to = wanted.crop_size[0], wanted.resize_size[0]
    resize = Resize(
        height=side, width=side, mode="shorter_side", interpolation=wanted.interpolation.value, scale_to=scale_to
    )
    return Preprocessing(resize=resize, mean=tuple(wanted.mean), std=tuple(wanted.std))


def _timm_preprocessing(module: nn.Module) -> Preprocessing:
    from timm.data import resolve_data_config

    wanted: dict[str, Any] = resolve_data_config({}, model=module)
    _, height, width = wanted["input_size"]
    cut = wanted["crop_mode"] != "squash"
    resize = Resize(
        height=height,
        width=width,
        mode="shorter_side" if cut else "stretch",
        interpolation=wanted["interpolation"] if wanted["interpolation"] in ("bilinear", "bicubic") else "bilinear",
        scale_to=math.floor(max(height, width) / wanted["crop_pct"]) if cut else None,
    )
    return Preprocessing(resize=resize, mean=tuple(wanted["mean"]), std=tuple(wanted["std"]))


# --- the small one ----------------------------------------------------------------------------------------------------


def _convolution(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to the same shape."""
        return x + self.body(x)


class Cnn32(nn.Module):
    """A residual network of half a million weights for images of 32 x 32; quick on a CPU."""

    def __init__(self, num_classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _convolution(3, 32),
            Residual(32),
            _convolution(32, 64),
            nn.MaxPool2d(2),
            Residual(64),
            _convolution(64, 128),
            nn.MaxPool2d(2),
            Residual(128),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(128, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, num_classes] logits."""
        return self.classifier(self.features(images))
