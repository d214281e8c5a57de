"""Small, real run directories and their prepared data, as train, evaluate and prepare leave them: one a modality."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proj import runs
from proj.runs import Record

NAMES = ["cat", "<b>x", 'dog & "co"']
ROWS = 90
# The wrong answers of the test split, by position: (what it said, how sure).
WRONG = {2: (0, 0.71), 7: (2, 0.97), 11: (1, 0.88)}


@dataclass(frozen=True)
class Made:
    run: Path
    prepared: Path

    def change(self, file: str, **values: Any) -> None:
        """Set top-level keys of a JSON file of the run; None removes one."""
        path = self.run / file
        content = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def confusion(y: Any, said: Any) -> Any:
    made = np.zeros((len(NAMES), len(NAMES)), np.int64)
    np.add.at(made, (y, said), 1)
    return made


def write_prepared(folder: Path) -> Any:
    """45 training, 15 validation, 30 test rows of 8x8 grey pictures; returns y."""
    folder.mkdir()
    y = np.arange(ROWS) % 3
    x = np.random.default_rng(0).integers(0, 255, (ROWS, 8, 8, 1), dtype=np.uint8)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.save(folder / "split.npy", np.repeat([0, 1, 2], [45, 15, 30]).astype(np.uint8))
    np.save(folder / "group.npy", np.array([f"g{i // 2}" for i in range(ROWS)]))
    skipped = [{"id": "cat/broken.jpg", "why": "cut off"}]
    meta = {"names": NAMES, "source": "default", "sample": False, "skipped": skipped}
    (folder / "meta.json").write_text(json.dumps(meta))
    return y


def write_scores(run: Path, y: Any) -> None:
    index = np.arange(60, 90)
    y = y[index]
    prob = np.full((len(y), 3), 0.02, np.float32)
    prob[np.arange(len(y)), y] = 0.96
    for i, (said, sure) in WRONG.items():
        prob[i] = (1 - sure) / 2
        prob[i, said] = sure
    said = prob.argmax(1)
    matrix = confusion(y, said)
    hits, rows, columns = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    per = {
        n: {
            "precision": hits[k] / columns[k],
            "recall": hits[k] / rows[k],
            "f1": 2 * hits[k] / (rows[k] + columns[k]),
            "support": int(rows[k]),
        }
        for k, n in enumerate(NAMES)
    }
    content = {
        "task": "pets",
        "run": run.name,
        "split": "test",
        "kind": "classes",
        "names": NAMES,
        "question": "Which pet is <this>?",
        "metrics": {"accuracy": 27 / 30, "macro_f1": float(np.mean([v["f1"] for v in per.values()]))},
        "per_class": per,
        "confusion": matrix.tolist(),
        "baselines": [{"name": "most frequent class", "metrics": {"accuracy": 0.3333}}],
    }
    (run / "metrics.json").write_text(json.dumps(content))
    ids = np.array([f"photo {i}.jpg" for i in index])
    np.savez(run / "predictions.npz", index=index, y=y, prob=prob, id=ids)


def record(folder: Path, task: str) -> Path:
    """A new run directory with its run.json, config and learning curves."""
    run = folder / "20260101-000000-abcd"
    run.mkdir()
    made = Record(
        task=task,
        run=run.name,
        status="finished",
        seed=7,
        overrides=[f"task={task}", "model.lr=1e-3", "task.names=[a b]"],
        source="default",
        data_hash="0123abcd",
        device="cpu",
        started="2026-01-01T00:00:00+00:00",
        seconds={"train": 61.0, "evaluate": 0.4},
        versions={"torch": "2.9.0"},
        git={"commit": "4f0c2d91a7be55", "dirty": True},
    )
    runs.write(run, made)
    (run / "config.yaml").write_text("model:\n  lr: 0.001\n")
    (run / "metrics.csv").write_text(
        "epoch,train_loss,val_loss,val_accuracy,val_macro_f1,lr,seconds\n"
        "0,1.0,0.9,0.6,0.58,0.001,1\n"
        "1,0.5,0.4,0.8,0.79,0.001,1\n"
        "2,0.3,,0.85,,0.0005,1\n"
        "3,0.1,0.7,0.82,0.8,0.0001,1\n"
    )
    return run


def make(folder: Path) -> Made:
    """Pictures, classes: a finished run on real data, with everything that a run has."""
    run, prepared = record(folder, "pets"), folder / "prepared"
    write_scores(run, write_prepared(prepared))
    return Made(run, prepared)
