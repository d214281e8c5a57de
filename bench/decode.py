"""Milliseconds that a photo takes from its bytes to the pixels that a model sees, each way beside the others.

python bench/decode.py FOLDER [--side 224] [--photos 200] [--rounds 5]

Ways: "pillow" is decode and antialiased resize as most servers have it; "pillow draft" decodes at a fraction where that
is at least twice the size, as this project did before; "opencv" and "opencv area" decode and resize there; "simplejpeg
linear" is the fastest pair, which aliases; "proj" is `proj.preprocess`. Each round runs all of them, on one thread and
on two; shown is the median of the rounds. "off" is the mean difference from "pillow" in grey levels.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from proj.preprocess import image
from proj.preprocess.spec import ImageSpec

Way = Callable[[bytes], Any]


def ways(side: int) -> dict[str, Way]:
    size, spec = (side, side), ImageSpec(height_px=side, width_px=side)

    def pillow(content: bytes) -> Any:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize(size, Image.Resampling.BILINEAR))

    def draft(content: bytes) -> Any:
        img = Image.open(io.BytesIO(content))
        img.draft(None, (2 * side, 2 * side))
        return np.asarray(img.convert("RGB").resize(size, Image.Resampling.BILINEAR))

    def opencv(how: int) -> Way:
        def decode(content: bytes) -> Any:
            x = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
            return cv2.resize(x, size, interpolation=how)

        return decode

    return {
        "pillow": pillow,
        "pillow draft": draft,
        "opencv": opencv(cv2.INTER_LINEAR),
        "opencv area": opencv(cv2.INTER_AREA),
        "simplejpeg linear": lambda content: cv2.resize(simplejpeg.decode_jpeg(content), size),
        "proj": lambda content: image.decode(content, spec),
    }


def ms(way: Way, contents: list[bytes], threads: int) -> float:
    """Wall-clock milliseconds a photo, all threads together."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(lambda part: [way(c) for c in part] and None, [contents[i::threads] for i in range(threads)]))
        return (time.perf_counter() - start) * 1e3 / len(contents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    paths = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
    contents = [p.read_bytes() for p in paths[:: max(1, len(paths) // args.photos)]][: args.photos]
    if not contents:
        parser.error(f"no JPEG under {args.folder}")
    sizes = statistics.median(len(c) for c in contents)
    print(f"{len(contents)} photos, {sizes / 1000:.0f} kB, to {args.side} x {args.side}")
    took: dict[tuple[str, int], list[float]] = {}
    table = ways(args.side)
    reference = [table["pillow"](c).astype(int) for c in contents]
    off = {
        n: statistics.mean(np.abs(way(c) - r).mean() for c, r in zip(contents, reference, strict=True))
        for n, way in table.items()
    }
    for _ in range(args.rounds):
        for threads in (1, 2):
            for name, way in table.items():
                took.setdefault((name, threads), []).append(ms(way, contents, threads))
    print(f"{'':18}  1 thread  2 threads    off   times as fast as pillow")
    base = {t: statistics.median(took["pillow", t]) for t in (1, 2)}
    for name in table:
        one, two = (statistics.median(took[name, t]) for t in (1, 2))
        print(f"{name:18} {one:9.3f} {two:10.3f} {off[name]:6.2f}   {base[1] / one:.2f}  {base[2] / two:.2f}")


if __name__ == "__main__":
    main()
