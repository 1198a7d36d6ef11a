"""Presets: the models that come with the platform, in the list from its first start on.

A row says that its preset was added once: one that was deleted does not come back by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from shared import config, errors, nets
from shared.artifacts import ArtifactStore
from shared.db import connection, jobs, registry
from shared.specs import (
    Architecture,
    ConvertSpec,
    Detection,
    Preprocessing,
    Preset,
    Pretrained,
    Resize,
    canonical_json,
)
from shared.trace import Origin

THEN = "then `cvp restart gateway`; the preset is prepared by itself after that"
FETCHED_FROM = "https://download.pytorch.org/models"
OWN_WEIGHTS = "The released weights are never fetched, for their licence: upload a checkpoint with architecture={}."
SIDE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _detector(name: str, parameters: int) -> Preset:
    contract = Preprocessing(
        resize=Resize(height=640, width=640, mode="letterbox"),
        scores="probabilities",
        detection=Detection(format="yolo"),
    )
    return Preset(
        name=name,
        description=f"YOLOv8 {name[-1]} for 80 classes. {OWN_WEIGHTS.format(name)}",
        architecture=Architecture(name=name, num_classes=80, task="detection", preprocessing=contract),
        parameters=parameters,
    )


def _of_imagenet(name: str, description: str, parameters: int, resize: Resize, pretrained: Pretrained) -> Preset:
    contract = Preprocessing(resize=resize, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Preset(
        name=name,
        description=description,
        architecture=Architecture(name=name, num_classes=1000, task="classification", preprocessing=contract),
        parameters=parameters,
        pretrained=pretrained,
    )


PRESETS = (
    _detector("yolov8n", 3_157_200),
    _detector("yolov8s", 11_166_560),
    _of_imagenet(
        "resnet50",
        "ResNet-50 of torchvision, for the 1000 classes of ImageNet.",
        25_557_032,
        Resize(height=SIDE, width=SIDE, mode="shorter_side", scale_to=232),
        Pretrained(
            name="ResNet50_Weights.IMAGENET1K_V2 of torchvision",
            url=f"{FETCHED_FROM}/resnet50-11ad3fa6.pth",
            max_bytes=110_000_000,
        ),
    ),
    _of_imagenet(
        "efficientnet_b0",
        "EfficientNet-B0 of torchvision, for the 1000 classes of ImageNet.",
        5_288_548,
        Resize(height=SIDE, width=SIDE, mode="shorter_side", interpolation="bicubic", scale_to=256),
        Pretrained(
            name="EfficientNet_B0_Weights.IMAGENET1K_V1 of torchvision",
            url=f"{FETCHED_FROM}/efficientnet_b0_rwightman-7f5810bc.pth",
            max_bytes=25_000_000,
        ),
    ),
    Preset(
        name="cnn32",
        description="A small residual network for images of 32 x 32 and 10 classes: quick to train, also without GPU.",
        architecture=Architecture(
            name="cnn32",
            num_classes=10,
            task="classification",
            preprocessing=Preprocessing(
                resize=Resize(height=32, width=32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
            ),
        ),
        parameters=482_730,
    ),
)


def prepare(settings: config.Settings, store: ArtifactStore) -> None:
    """When the gateway starts: add those that never were there, and try again those that failed.

    Raises:
        errors.Unavailable: Disk or database cannot be written.
    """
    if not settings.presets:
        return
    known = registry.presets()
    for row in known:
        if row.deleted_at_ms is None and row.status == "failed" and nets.missing() is None:
            with connection.write(durable=True, name="preset"):
                registry.set_converting(row.id)
                _order(row.id)
    names = {row.preset.name for row in known}
    for preset in sorted(PRESETS, key=lambda each: each.parameters):  # the first is soon there to be trained
        if preset.name not in names:
            add(preset, store)


def add(
    preset: Preset,
    store: ArtifactStore,
    make_place: Callable[[], list[str]] = list,
    origin: Origin | None = None,
) -> tuple[str, list[str]]:
    """A row with its descriptor, and a job that prepares it where PyTorch is installed.

    Args:
        preset: What is added.
        store: Of the models.
        make_place: Called first, in the same transaction; gives the SHA-256 of files that are in the way.
        origin: The request that wishes it.

    Returns:
        The new model's id, and the files that may be removed now.
    """
    with store.stage() as staging:
        staging.write(canonical_json(preset))
        stored = staging.seal()
        with connection.write(durable=True, name="preset"):
            unused = make_place()
            model_id = registry.add_preset(preset, stored)
            registry.keep_artifact(stored, "models")
            _order(model_id, origin)
            staging.publish()
    return model_id, unused


def renew(name: str, settings: config.Settings, store: ArtifactStore, origin: Origin) -> tuple[str, list[str]]:
    """Add a preset that was deleted; or in place of one that failed or lacks its pretrained weights a new one.

    Returns:
        As `add`.

    Raises:
        errors.NotFound: There is no such preset.
        errors.Conflict: PyTorch is not installed, it is just being prepared, or it could not come out better.
    """
    preset = next((each for each in PRESETS if each.name == name), None)
    if preset is None:
        raise errors.NotFound(
            f"There is no preset {name[:80]!r}; there are {', '.join(each.name for each in PRESETS)}."
        )
    if lacks := nets.missing("repeat this call"):
        raise errors.Conflict(lacks)
    return add(preset, store, lambda: _deleted(preset, settings, origin), origin)


def is_pretrained(preset: Preset, source: str | None) -> bool:
    """Whether the weights have learned anything, from the `source` of their conversion."""
    return preset.pretrained is not None and preset.pretrained.name == source


def _deleted(preset: Preset, settings: config.Settings, origin: Origin) -> list[str]:
    row = next(
        (row for row in registry.presets() if row.deleted_at_ms is None and row.preset.name == preset.name), None
    )
    if row is None:
        return []
    if row.status == "converting":
        raise errors.Conflict(f"Preset {preset.name} ({row.id}) is being prepared already.")
    if row.status == "ready":
        if preset.pretrained is None or is_pretrained(preset, row.conversion.source):
            raise errors.Conflict(f"Preset {preset.name} ({row.id}) is ready; delete it first to have it made anew.")
        if not settings.preset_weights:
            raise errors.Conflict("PRESET_WEIGHTS is off, so there are no pretrained weights to be had.")
    return registry.delete_model(row.id, origin.request_id)


def _order(model_id: str, origin: Origin | None = None) -> None:
    if lacks := nets.missing(THEN):
        registry.set_failed(model_id, lacks)
        return
    spec = ConvertSpec(model_id=model_id)
    job_id = jobs.insert(
        "convert", spec, user_id=registry.PLATFORM, heavy=True, priority=jobs.BACKGROUND, origin=origin
    )
    registry.set_job(model_id, job_id)
