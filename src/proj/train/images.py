"""The encoder of pictures: pixels, a timm backbone, features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from proj.train import weights

if TYPE_CHECKING:
    from proj.config import Model
    from proj.preprocess.spec import ImageSpec

Tensor = torch.Tensor


WHITE = 255.0


class Pixels(nn.Module):
    """uint8 (B, H, W, C) to float (B, C, h, w) in 0..1, enlarged or reduced to what the backbone sees.

    In an exported graph they stay in 0..255: `ImageEncoder.normalised` has one product and one sum there, where a
    quotient, a difference and a quotient took 5 % of the time that ONNX Runtime needs for a mobilenetv3_small_100.
    """

    def __init__(self, shape: tuple[int, int, int], input_size_px: int) -> None:
        super().__init__()
        h, w, _ = shape
        scale = input_size_px / max(h, w) if input_size_px else 1.0
        self.size = (max(1, round(h * scale)), max(1, round(w * scale)))
        self.resize = self.size != (h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2).float()
        if not torch.compiler.is_exporting():
            x = x.div_(WHITE)
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=False) if self.resize else x


class ImageEncoder(nn.Module):
    """`width` features of each picture. With several views an input is (B, V, H, W, C), its features (B, V, width)."""

    mean: Tensor
    std: Tensor

    def __init__(self, m: Model, spec: ImageSpec, mean: list[float], std: list[float]) -> None:
        """`mean`, `std`: of the training split, used when the backbone brings none of its own."""
        super().__init__()
        self.pixels = Pixels(spec.view_shape, m.input_size_px)
        self.backbone = weights.backbone(m, spec.channels)
        if m.pretrained or m.weights:
            mean, std = (_own(self.backbone.pretrained_cfg[k], spec.channels) for k in ("mean", "std"))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        with torch.no_grad():
            self.backbone.eval()
            self.width = int(self.backbone(torch.zeros(1, spec.channels, *self.pixels.size)).shape[-1])
        self.train()  # the probe above needed evaluation mode, and Lightning keeps the mode that it finds

    def front(self, x: Tensor) -> Tensor:
        """uint8 (B, H, W, C) or (B, V, H, W, C) to float in 0..1, (B, C, h, w) or (B, V, C, h, w)."""
        if x.dim() == 4:
            y: Tensor = self.pixels(x)
            return y
        pixels: Tensor = self.pixels(x.flatten(0, 1))
        return pixels.reshape(*x.shape[:2], *pixels.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 5:
            return self.forward(x.flatten(0, 1)).reshape(*x.shape[:2], self.width)
        # A graph has no layouts, but of a picture that is channels-last a pool would write down how to make it so.
        layout = torch.contiguous_format if torch.compiler.is_exporting() else torch.channels_last
        f: Tensor = self.backbone(self.normalised(x).contiguous(memory_format=layout))
        return f

    def normalised(self, x: Tensor) -> Tensor:
        """Float (B, C, h, w), by the same operations whatever the layout; in an exported graph by fewer.

        Pixels that lie channels-last are taken by whole rows: three numbers that take turns at every place are slow.
        """
        if torch.compiler.is_exporting():
            return x * (1 / (WHITE * self.std)) - self.mean / self.std
        if not x.is_contiguous(memory_format=torch.channels_last):
            return (x - self.mean) / self.std
        b, c, h, w = x.shape
        mean, std = (t.flatten().repeat(w) for t in (self.mean, self.std))
        return (x.permute(0, 2, 3, 1).flatten(2) - mean).div_(std).reshape(b, h, w, c).permute(0, 3, 1, 2)


def _own(values: Any, channels: int) -> list[float]:
    """A pretrained model's statistics; for grey pictures their mean over the colours."""
    v = [float(a) for a in values]
    return v if len(v) == channels else [sum(v) / len(v)] * channels
