"""Every config leaf is read by something: a key that nothing reads is a promise that nobody keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from bundles import make_bundle
from made_projects import digits, photos, project, trashnet, weights_file

from proj import bundle, config
from proj.data import prepare
from proj.serve import settings
from proj.task import Options
from proj.train import augment, inputs, net
from proj.train.data import Batches
from proj.train.model import LitModel
from proj.verbs import evaluate, plan
from proj.verbs import job as jobs
from proj.verbs import train as verb

# Not read as an attribute: written into the bundle as a whole, from which the server takes each (tested below).
BY_WAY_OF_THE_BUNDLE = {f"serve.{f.name}" for f in fields(config.Serve)}
# Read before there is a job, to find its task and the encoder of its modality (tested below).
FINDS_THE_TASK = {"task.name", "model.image", "model.text", "model.series"}
# What only texts, series or values read: one step of each.
OTHERS = (
    ("task=fakenews", "model=small", "model.backbone=transformer", "augment.token_drop=0.1"),
    ("task=fakenews", "model=linear"),
    ("task=robot", "augment.jitter=0.1", "augment.amplitude=0.1", "augment.time_shift=0.1"),
    ("task=nutrition", "model=small", "model.backbone=test_resnet", "task.height_px=16", "task.width_px=16"),
)


def _classes(options: type[Options]) -> dict[type[Any], str]:
    """Config's dataclasses and the prefix of their keys."""
    hints = get_type_hints(config.Config)
    found: dict[type[Any], str] = {config.Config: "", options: "task."}
    return found | {kind: f"{name}." for name, kind in hints.items() if is_dataclass(kind) and kind is not Options}


@contextmanager
def recorded(options: type[Options]) -> Iterator[set[str]]:
    """The leaves that are read while it lasts. Dumping a config does not count: `to_dict` goes through `vars`."""
    read: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        for kind, prefix in _classes(options).items():
            own = {f.name for f in fields(kind)}

            def getattribute(self: Any, name: str, own: set[str] = own, prefix: str = prefix) -> Any:
                if name in own:
                    read.add(prefix + name)
                return object.__getattribute__(self, name)

            patch.setattr(kind, "__getattribute__", getattribute, raising=False)
        yield read


def test_every_leaf_is_read_in_a_fast_run_of_all_verbs(tmp_path: Path) -> None:
    frozen = ("model.freeze=true", "model.feature_views=2", f"model.weights='{weights_file(tmp_path)}'")
    job = digits(tmp_path, *frozen)  # composed before: the checks of ranges read every leaf
    with recorded(job.task.options) as read:
        plan.plan(job, fast=False)  # --fast puts its own number in the place of trainer.max_epochs
        run, _ = verb.train(job, fast=True, name="one")
    tracked = digits(tmp_path, "track=wandb").cfg
    with recorded(job.task.options) as more:
        from proj.train import track

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(track, "WandbLogger", lambda *_, **__: None)
            track.loggers(tracked, tmp_path)
    again = jobs.of_run(run, job.project)
    with recorded(job.task.options) as evaluated, pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "of_run", lambda *_: again)
        evaluate.evaluate(run, job.project)
    for words in OTHERS:
        more |= _one_step(tmp_path, *words)
    leaves = set(config.keys(job.task.options))
    assert leaves - read - more - BY_WAY_OF_THE_BUNDLE - FINDS_THE_TASK == set()
    assert "data.split" in evaluated
    served = settings.build(run / "bundle", {}, environ={}, folder=tmp_path)
    for key in BY_WAY_OF_THE_BUNDLE:
        name = key.removeprefix("serve.")
        told = getattr(served, name)
        if told is None:  # each bundle's own holds, since a server may have several
            told = getattr(bundle.read(run / "bundle").serve, name)
        assert told == getattr(job.cfg.serve, name)


def _one_step(folder: Path, *words: str) -> set[str]:
    """The leaves that one training step on a task's sample reads."""
    job = jobs.job([*words, "data.source=sample", "model.hidden=4"], project(folder))
    prepared = prepare.prepare(job.task, job.cfg, job.project.data)
    with recorded(job.task.options) as read:
        view = inputs.view(prepared, job.cfg.model)
        model = LitModel(net.build(job.cfg.model, view), job.cfg, view.modality, outputs=view.outputs, total_steps=1)
        x, y = next(iter(Batches(view.x, prepared.y, view.train, 8)))
        x = augment.inputs(model.net.front(x), view.modality, job.cfg.augment, augment.generator(0, 0))
        model.loss(model.net.head(model.net.encode(x)), y).backward()
    return read


@pytest.mark.parametrize(
    ("words", "backbone"),
    [
        (["task=trashnet", "model=pretrained", "model.image=resnet18"], "resnet18"),
        (["task=fakenews", "model=pretrained", "model.text=some-bert"], "some-bert"),
        (["task=robot", "model.series=lstm"], "lstm"),
        (["task=robot", "model.series=lstm", "model.backbone=convolutions"], "convolutions"),
    ],
)
def test_the_encoder_is_that_of_the_tasks_modality(tmp_path: Path, words: list[str], backbone: str) -> None:
    assert jobs.job(words, project(tmp_path)).cfg.model.backbone == backbone


def test_every_option_of_trashnet_is_read(tmp_path: Path) -> None:
    job = trashnet(tmp_path, f"data.source='{photos(tmp_path / 'photos')}'")
    with recorded(job.task.options) as read:
        prepare.prepare(job.task, job.cfg, job.project.data)
    assert {k for k in config.keys(job.task.options) if k.startswith("task.")} - read <= {"task.name"}


def test_the_record_sees_a_read_and_not_a_dump(tmp_path: Path) -> None:
    job = digits(tmp_path)
    with recorded(job.task.options) as read:
        config.to_dict(job.cfg)
        assert read == set()
        assert job.cfg.model.lr > 0
    assert read == {"model", "model.lr"}


def test_what_the_server_is_told_is_in_the_bundles_settings() -> None:
    assert {f.name for f in fields(config.Serve)} == set(bundle.ServeSettings.model_fields)
    assert set(bundle.ServeSettings.model_fields) <= set(settings.Settings.model_fields)


def test_defaults_of_the_server_are_the_same_wherever_they_stand() -> None:
    """The server takes from a bundle what differs from the default: with two of them a choice would be lost."""
    told, kept, chosen = settings.Settings(), bundle.ServeSettings(), config.Serve()
    for name in set(bundle.ServeSettings.model_fields) - {"threshold"}:  # None there leaves it to each bundle
        assert getattr(told, name) == getattr(kept, name) == getattr(chosen, name), name
    assert kept.threshold == chosen.threshold


@pytest.mark.parametrize("size", [64, 100, 128])
def test_a_queue_that_was_chosen_reaches_the_server(tmp_path: Path, size: int) -> None:
    made = make_bundle(tmp_path / "bundle", serve=bundle.ServeSettings(queue_size=size))
    assert settings.build(made, {}, environ={}, folder=tmp_path).queue_size == size
