"""YOLOv8, the anchor-free detector, from its published architecture and with the usual names of its weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
REG_MAX = 16
"""Bins of the distribution from which each side of a box is read (distribution focal loss)."""


class Scale(NamedTuple):
    """How deep and wide a variant is, and its most channels before widening."""

    depth: float
    width: float
    channels: int


SCALES = {
    "n": Scale(1 / 3, 0.25, 1024),
    "s": Scale(1 / 3, 0.50, 1024),
    "m": Scale(2 / 3, 0.75, 768),
    "l": Scale(1.0, 1.00, 512),
    "x": Scale(1.0, 1.25, 512),
}


class Conv(nn.Module):
    """Convolution, batch normalisation, SiLU; keeps height and width at stride 1."""

    def __init__(self, given: int, made: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(given, made, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(made, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, given, H, W] to [B, made, H / stride, W / stride]."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a way around them in the backbone."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, 3)
        self.cv2 = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to the same shape."""
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Splits the channels in two, passes one half through bottlenecks, and joins every step on the way."""

    def __init__(self, given: int, made: int, repeats: int, shortcut: bool) -> None:
        super().__init__()
        half = made // 2
        self.cv1 = Conv(given, 2 * half)
        self.cv2 = Conv((2 + repeats) * half, made)
        self.m = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(repeats))

    def forward(self, x: Tensor) -> Tensor:
        """[B, given, H, W] to [B, made, H, W]."""
        steps = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            steps.append(bottleneck(steps[-1]))
        return self.cv2(torch.cat(steps, 1))


class SPPF(nn.Module):
    """Spatial pyramid pooling: three poolings in a row see 5, 9 and 13 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels // 2)
        self.cv2 = Conv(channels // 2 * 4, channels)
        self.m = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to the same shape."""
        steps = [self.cv1(x)]
        for _ in range(3):
            steps.append(self.m(steps[-1]))
        return self.cv2(torch.cat(steps, 1))


class DFL(nn.Module):
    """The expected distance of each side, from its distribution over the bins."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(REG_MAX, 1, 1, bias=False).requires_grad_(False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.arange(float(REG_MAX)).view(1, REG_MAX, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4 * REG_MAX, N] logits to [B, 4, N] distances in cells: left, top, right, bottom."""
        batch, _, cells = x.shape
        return self.conv(x.view(batch, 4, REG_MAX, cells).transpose(1, 2).softmax(1)).view(batch, 4, cells)


class Detect(nn.Module):
    """The head: at each of three strides, every cell says where a box around it ends and what is in it."""

    def __init__(self, num_classes: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        box = max(16, channels[0] // 4, 4 * REG_MAX)
        score = max(channels[0], min(num_classes, 100))
        self.num_classes = num_classes
        self.cv2 = nn.ModuleList(_branch(each, box, 4 * REG_MAX) for each in channels)
        self.cv3 = nn.ModuleList(_branch(each, score, num_classes) for each in channels)
        self.dfl = DFL()
        for boxes, scores, stride in zip(self.cv2, self.cv3, STRIDES, strict=True):
            nn.init.ones_(boxes[-1].bias)
            nn.init.normal_(scores[-1].weight, std=0.01)  # the bias speaks first (Lin et al., Focal Loss, section 4.1)
            nn.init.constant_(scores[-1].bias, math.log(5 / num_classes / (640 / stride) ** 2))  # some 5 objects

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Three maps to raw predictions (`YOLOv8.raw`)."""
        return [torch.cat([boxes(x), scores(x)], 1) for x, boxes, scores in zip(maps, self.cv2, self.cv3, strict=True)]

    def decoded(self, raw: list[Tensor]) -> Tensor:
        """What `forward` gave, as boxes and scores (`YOLOv8.decoded`)."""
        sides, scores = torch.cat([x.flatten(2) for x in raw], 2).split((4 * REG_MAX, self.num_classes), 1)
        centres, strides = cells([(int(x.shape[2]), int(x.shape[3])) for x in raw], sides)
        before, after = self.dfl(sides).chunk(2, 1)
        boxes = torch.cat([centres + (after - before) / 2, before + after], 1) * strides
        return torch.cat([boxes, scores.sigmoid()], 1)


class YOLOv8(nn.Module):
    """The whole detector.

    Args:
        scale: A key of `SCALES`.
        num_classes: How many kinds of object it tells apart.
    """

    def __init__(self, scale: str, num_classes: int) -> None:
        super().__init__()
        depth, width, most = SCALES[scale]

        def wide(channels: int) -> int:
            return math.ceil(min(channels, most) * width / 8) * 8

        c1, c2, c3, c4, c5 = (wide(channels) for channels in (64, 128, 256, 512, 1024))
        few, many = (max(round(repeats * depth), 1) for repeats in (3, 6))
        self.model = nn.ModuleList(
            [
                Conv(3, c1, 3, 2),  # 0
                Conv(c1, c2, 3, 2),
                C2f(c2, c2, few, shortcut=True),
                Conv(c2, c3, 3, 2),
                C2f(c3, c3, many, shortcut=True),  # 4: stride 8
                Conv(c3, c4, 3, 2),
                C2f(c4, c4, many, shortcut=True),  # 6: stride 16
                Conv(c4, c5, 3, 2),
                C2f(c5, c5, few, shortcut=True),
                SPPF(c5),  # 9: stride 32
                nn.Upsample(scale_factor=2),
                nn.Identity(),  # joins 6
                C2f(c5 + c4, c4, few, shortcut=False),
                nn.Upsample(scale_factor=2),
                nn.Identity(),  # joins 4
                C2f(c4 + c3, c3, few, shortcut=False),  # 15: to the head
                Conv(c3, c3, 3, 2),
                nn.Identity(),  # joins 12
                C2f(c3 + c4, c4, few, shortcut=False),  # 18: to the head
                Conv(c4, c4, 3, 2),
                nn.Identity(),  # joins 9
                C2f(c4 + c5, c5, few, shortcut=False),  # 21: to the head
                Detect(num_classes, (c3, c4, c5)),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """Find objects: `raw` in training, otherwise `decoded`.

        Args:
            images: [B, 3, H, W], RGB from 0 to 1, H and W multiples of 32.
        """
        raw = self.raw(images)
        return raw if self.training else self.decoded(raw)

    def decoded(self, raw: list[Tensor]) -> Tensor:
        """What is in `raw`.

        Returns:
            [B, 4 + num_classes, N]: centre x, centre y, width, height in pixels of the input, then a score from 0 to 1
            for each class; N is a cell of each stride, 8400 at 640 x 640.
        """
        found: Tensor = self.model[-1].decoded(raw)
        return found

    def raw(self, images: Tensor) -> list[Tensor]:
        """Logits: for each stride [B, 4 * REG_MAX + num_classes, H / stride, W / stride]."""
        kept: dict[int, Tensor] = {}
        joins = {11: 6, 14: 4, 17: 12, 20: 9}
        heads = (15, 18, 21)
        x = images
        for index, layer in enumerate(self.model[:-1]):
            x = torch.cat([x, kept[joins[index]]], 1) if index in joins else layer(x)
            if index in heads or index in joins.values():
                kept[index] = x
        found: list[Tensor] = self.model[-1]([kept[index] for index in heads])
        return found


def cells(sizes: list[tuple[int, int]], like: Tensor) -> tuple[Tensor, Tensor]:
    """The centres of all cells, [2, N] in cells (x, y), and their strides in pixels, [N], as `like` is typed."""
    centres, strides = [], []
    for (height, width), stride in zip(sizes, STRIDES, strict=True):
        y, x = torch.meshgrid(
            torch.arange(height, dtype=like.dtype, device=like.device) + 0.5,
            torch.arange(width, dtype=like.dtype, device=like.device) + 0.5,
            indexing="ij",
        )
        centres.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((height * width,), float(stride), dtype=like.dtype, device=like.device))
    return torch.cat(centres, 1), torch.cat(strides)


def _branch(given: int, inner: int, made: int) -> nn.Sequential:
    return nn.Sequential(Conv(given, inner, 3), Conv(inner, inner, 3), nn.Conv2d(inner, made, 1))
