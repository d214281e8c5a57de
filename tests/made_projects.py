"""Projects in temporary folders with the repository's own configs, small data sets, and one finished run."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from proj.data import prepare, store
from proj.project import Project
from proj.train import fit, inputs, setup
from proj.train import net as nets
from proj.train.data import View
from proj.train.net import Net
from proj.verbs import job as jobs
from proj.verbs import train as verb
from proj.verbs.job import Job

ROOT = Path(__file__).parents[1]
SMALLEST = ("task=digits", "model=small", "model.backbone=test_resnet", "model.input_size_px=0")
TOKEN = "ghp_abcdefghijklmnop1234"
NAMES = ("cardboard", "glass", "metal", "paper", "plastic", "trash")


def project(folder: Path) -> Project:
    return Project(folder, ROOT / "configs", "made by a test")


def digits(folder: Path, *overrides: str) -> Job:
    """A job on the real digits with the smallest network there is."""
    return jobs.job([*SMALLEST, *overrides], project(folder))


def trashnet(folder: Path, *overrides: str) -> Job:
    small = ("task=trashnet", "model=small", "model.backbone=test_resnet", "model.input_size_px=0")
    return jobs.job([*small, "task.height_px=16", "task.width_px=16", *overrides], project(folder))


def prepared(job: Job, *, fast: bool = False) -> store.Prepared:
    return prepare.prepare(job.task, job.cfg, job.project.data, fast=fast)


def view(job: Job) -> View:
    """240 rows of the job's data, in the split that prepare decided."""
    return inputs.view(prepared(job, fast=True), job.cfg.model)


def fitted(job: Job, out: Path, *, cache: Path | None = None) -> Net:
    """Trained on 240 rows, into `out`."""
    (out / "checkpoints").mkdir(parents=True)
    return fit.fit(job.cfg, view(job), out, cache=cache or out / "features")


def net(job: Job, v: View) -> Net:
    setup.seed_all(job.cfg.seed)
    return nets.build(job.cfg.model, v)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Equal weights and buffers, bit for bit."""
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def weights_file(folder: Path, *, channels: int = 3, name: str = "weights.safetensors") -> Path:
    """Weights of test_resnet with a classifier of 1,000 classes, as the hub has them."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    made = timm.create_model("test_resnet", pretrained=False, in_chans=channels, num_classes=1000)
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(made.state_dict(), path)
    else:
        torch.save(made.state_dict(), path)
    return path


def photos(folder: Path, *, each: int = 12, names: tuple[str, ...] = NAMES) -> Path:
    """Class folders of 24 x 18 JPEGs, numbered in tens so that each is a group of its own."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            x = np.full((18, 24, 3), 40 * k, np.uint8) + rng.integers(0, 30, (18, 24, 3), dtype=np.uint8)
            Image.fromarray(x).save(folder / name / f"{name}{10 * i}.jpg")
    return folder


@dataclass(frozen=True)
class Finished:
    """`content` is what `train` returned for `run`."""

    project: Project
    job: Job
    run: Path
    content: dict[str, Any]


def finished(folder: Path) -> Finished:
    """Two epochs on all digits, in a git repository whose working tree has a change with a secret in it."""
    for command in (
        ["init", "-q"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "one"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    (folder / "notes.py").write_text(f'key = "{TOKEN}"\n')
    subprocess.run(["git", "add", "notes.py"], cwd=folder, check=True)
    made = digits(folder, "trainer.max_epochs=2")
    run, content = verb.train(made, fast=False, name="first")
    return Finished(made.project, made, run, content)


def changed(job: Job, **values: Any) -> Job:
    """The job with other values of `model.*`."""
    config = replace(job.cfg, model=replace(job.cfg.model, **values))
    return replace(job, composed=replace(job.composed, config=config))
