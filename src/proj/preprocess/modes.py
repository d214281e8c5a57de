"""Pillow's many modes (16 bits, palettes, transparency, LAB, CMYK, ...) brought to two: L and RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image


def flat(img: Image.Image, paper: int = 255) -> Image.Image:
    """Any mode to L or RGB, 8 bit; transparency on `paper` (a grey level)."""
    if img.mode.startswith(("I", "F")):
        return _eight_bit(img, paper)
    if img.mode == "LAB":
        return _from_lab(img)
    if img.mode in {"La", "RGBa"}:  # multiplied by alpha: Pillow converts them only to their like
        img = img.convert({"La": "LA", "RGBa": "RGBA"}[img.mode])
    if see_through(img):
        rgba = img.convert("RGBA")
        under = Image.new("RGBA", rgba.size, (paper, paper, paper, 255))
        return Image.alpha_composite(under, rgba).convert("RGB")
    return img if img.mode in {"L", "RGB"} else img.convert("L" if img.mode == "1" else "RGB")


def see_through(img: Image.Image) -> bool:
    return img.mode in {"P", "PA", "LA", "RGBA"} or img.info.get("transparency") is not None


def _eight_bit(img: Image.Image, paper: int) -> Image.Image:
    """Greys of 16 or 32 bits or floating-point to L."""
    a = np.array(img, dtype=np.float32)
    clear = img.info.get("transparency")
    hidden = a == clear if isinstance(clear, int) else None
    a[np.isnan(a)] = 0
    most = float(a.max(initial=0.0))
    # 16-bit files use 0..65535, the few 32-bit ones as much as they have; floating-point ones 0..1 or 0..255.
    top = max(65535.0, most) if img.mode.startswith("I") else 1.0 if most <= 1 else 255.0
    a.clip(0, top, out=a)
    a *= 255.0 / top
    grey = (a + 0.5).astype(np.uint8)
    if hidden is not None:
        grey[hidden] = paper
    return Image.fromarray(grey)


def _from_lab(img: Image.Image) -> Image.Image:
    from PIL import ImageCms

    out = ImageCms.profileToProfile(
        img, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert out is not None
    return out
