"""What `proj data check` found, in words: a table, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proj.preprocess.image import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from proj.data.check import Report

BAR = 24  # characters of the longest class


def lines(r: Report) -> list[str]:
    out = [f"{r.folder}: {r.pictures:,} pictures, {len(r.classes)} classes", ""]
    out += _classes(r)
    out += _row("files", [f"{n:,} {kind}" for kind, n in r.kinds.items()])
    for axis in ("width", "height"):
        if sizes := r.sizes.get(f"{axis}_px"):
            out.append(f"{axis:<16}{sizes[0]:,} / {sizes[1]:,} / {sizes[2]:,} px (least, median, most)")
    out += _row("frequent sizes", [f"{shape} ({n:,})" for shape, n in r.shapes.items()])
    out += _row("colour modes", [f"{mode} ({n:,})" for mode, n in r.modes.items()])
    out += ["", f"{'broken':<16}{len(r.broken):,}", *_some([f"{n}: {why}" for n, why in r.broken], r)]
    inside = f", {len(r.conflicts):,} of them in two classes" if r.conflicts else ""
    out += [f"{'equal files':<16}{len(r.doubles):,} groups{inside}"]
    out += _some([" = ".join(g) for g in (r.conflicts or r.doubles)], r)
    across = f", {len(r.near_conflicts):,} of them in two classes" if r.near_conflicts else ""
    out += [f"{'look alike':<16}{len(r.near):,} pairs{across}"]
    out += _some([f"{a} ~ {b}" for a, b in (r.near_conflicts or r.near)], r)
    if r.outside and r.classes:
        out += [f"{'in no class':<16}{len(r.outside):,}", *_some(r.outside, r)]
    if r.misnamed:
        out += [
            f"{'other format':<16}{len(r.misnamed):,} are not what their suffix says",
            *_some(r.misnamed, r),
        ]
    out += ["", "fine" if r.ok else "not fit for training as it is"]
    return out + [f"- {sentence}" for sentence in advice(r)]


def _classes(r: Report) -> list[str]:
    if not r.classes:
        return []
    wide = max(len(n) for n in r.classes)
    total, most = max(1, sum(r.classes.values())), max(1, *r.classes.values())
    rows = [
        f"{name:<{wide}}  {n:>7,}  {n / total:>6.1%}  {'#' * round(BAR * n / most)}".rstrip()
        for name, n in r.classes.items()
    ]
    return [f"{'class':<{wide}}  {'count':>7}  {'share':>6}", *rows, ""]


def _row(what: str, parts: Sequence[str]) -> list[str]:
    return [f"{what:<16}{', '.join(parts)}"] if parts else []


def _some(items: Sequence[str], r: Report) -> list[str]:
    more = len(items) - r.max_examples
    return [f"  {i}" for i in items[: r.max_examples]] + ([f"  and {more:,} more (--json lists all)"] * (more > 0))


def advice(r: Report) -> list[str]:
    """What to do next, most urgent first; one sentence each."""
    out = []
    if r.conflicts:
        out.append("the same picture stands in two classes: keep each of them in the right one only")
    if r.broken:
        out.append("remove or replace the broken files; a few of them are left out by training, and named")
    if not r.classes:
        out.append("no class folders: put the pictures of each class into a folder of its name")
    elif sum(n > 0 for n in r.classes.values()) == 1:
        out.append("there is one class only: a classifier needs two or more")
    if r.empty_classes:
        out.append(f"without pictures: {', '.join(r.empty_classes)}; add some, or remove the folders")
    if r.small_classes:
        out.append(f"with very few pictures: {', '.join(r.small_classes)}; add some, or join classes")
    if r.imbalance > 5:
        out.append(f"the largest class is {r.imbalance:.0f} times the smallest: weigh the classes, judge by macro-F1")
    if r.outside and r.classes:
        out.append("pictures outside of the class folders are not used: move them into one")
    if r.near_conflicts:
        out.append("some pictures of different classes look alike: see whether their labels are right")
    if r.splits:
        out.append(f"{', '.join(r.splits)} are splits: proj makes and stores its own, so hand it one folder a class")
    if len(r.doubles) > len(r.conflicts) or len(r.near) > len(r.near_conflicts):
        out.append("doubles must not be on both sides of a split: remove them, or give them one group")
    unread = {k: n for k, n in r.kinds.items() if k not in IMAGE_SUFFIXES}
    if heic := sum(n for k, n in unread.items() if k in {".heic", ".heif", ".avif"}):
        out.append(f"{heic:,} HEIC or AVIF pictures are not read: save them as JPEG")
    if r.sizes and r.sizes["width_px"][0] < 32:
        out.append("some pictures are smaller than 32 pixels: look whether they show anything")
    return out
