"""`proj data` and `proj data check`."""

from __future__ import annotations

import time
from pathlib import Path

from proj import console
from proj.data import prepare, versions
from proj.verbs.job import Job


def prepared(job: Job, *, fast: bool, as_json: bool, start: float) -> None:
    p = prepare.prepare(job.task, job.cfg, job.project.data, fast=fast)
    versions.keep(job.project.root, job.project.data / "raw" / job.task.name)
    if as_json:
        document = {"task": job.task.name, "prepared": str(p.folder), "rows": len(p.x), "source": p.meta.source}
        counted = {"counts": p.meta.counts, "skipped": p.meta.skipped, "data_hash": p.meta.data_hash}
        console.json_out(document | counted)
        return
    splits = list(p.meta.counts)
    kinds = list(p.meta.counts[splits[0]])
    for line in console.table(
        ["class" if p.meta.kind == "classes" else "", *splits],
        [[n, *(str(p.meta.counts[s][n]) for s in splits)] for n in kinds],
    ):
        print(line)
    print()
    rows = [
        ("source", p.meta.source),
        (
            "rows",
            f"{len(p.x):,}"
            + (f" of shape {p.x.shape[1:]}" if p.meta.modality != "text" else " texts")
            + (f", {len(p.meta.skipped)} unreadable left out" if p.meta.skipped else ""),
        ),
        ("prepared", f"{console.relative(p.folder)} ({console.size(console.folder_bytes(p.folder))})"),
        ("took", console.seconds(time.monotonic() - start)),
    ]
    console.outcome(rows, next=" ".join(["proj train", *job.composed.overrides]))


def checked(folder: Path, *, as_json: bool) -> int:
    """Returns the exit code: 1 when files are broken or labels contradict each other."""
    from proj.data import check

    report = check.check(folder)
    if as_json:
        console.json_out(report.to_dict())
    else:
        print("\n".join(report.lines()))
    return 0 if report.ok else 1
