"""One or several pictures of one thing, as one input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np

from proj.errors import InputError
from proj.preprocess import image
from proj.preprocess.photo import Pixels
from proj.preprocess.spec import ImageSpec

View = bytes | Path | Pixels


def decode(source: View | Sequence[View], spec: ImageSpec, *, max_pixels: int = image.DEFAULT_MAX_PIXELS) -> Pixels:
    """Uint8 of `spec.shape`. Where the model takes several views and fewer are given, they are repeated in turn.

    Raises InputError when there are more views than the model takes, and what `image.decode` raises.
    """
    if isinstance(source, np.ndarray) and source.shape == spec.shape and source.dtype == np.uint8:
        return np.ascontiguousarray(source)
    given = list(source) if _several(source) else [source]
    if not 1 <= len(given) <= spec.views:
        found = f"{len(given)} were given, the model takes 1" + (f" to {spec.views}" if spec.views > 1 else "")
        raise InputError("a wrong number of views", found=found)
    seen = [image.decode(v, spec, max_pixels=max_pixels) for v in given]  # type: ignore[arg-type]
    return np.stack([seen[i % len(seen)] for i in range(spec.views)]) if spec.views > 1 else seen[0]


def _several(source: View | Sequence[View]) -> TypeGuard[Sequence[View]]:
    return isinstance(source, list | tuple)
