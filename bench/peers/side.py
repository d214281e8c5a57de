"""What bench/training.py asks of a peer, and how it answers. Imports nothing but the standard library."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def asked(doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/, val/ and test/, each by class")
    parser.add_argument("--out", type=Path, required=True, help="a folder for weights, logs and answer.json")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--zero-head", action="store_true", help="the classifier starts at zero")
    parser.add_argument("--clip", type=float, default=0.0, help="the gradient's norm, at most; 0: any")
    parser.add_argument("--weights", default="", help="a file for the backbone; default: random ones")
    return parser.parse_args()


def answer(out: Path, *, accuracy: float, clock: dict[str, Any]) -> None:
    """`accuracy`: on the test folder. `clock`: as clock.Clock.content gives it."""
    (out / "answer.json").write_text(json.dumps({"accuracy": accuracy, "clock": clock}), encoding="utf-8")


def classes(data: Path) -> list[str]:
    return sorted(p.name for p in (data / "train").iterdir() if p.is_dir())
