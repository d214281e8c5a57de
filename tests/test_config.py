"""Keys, types and ranges of the config."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT

from proj import bundle, config, task
from proj.config import Augment, Config, Data, Model, Serve, Track, Trainer
from proj.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Data, {"split": "random"}),
        (Data, {"val_share": 0}),
        (Data, {"test_share": 1}),
        (Data, {"val_share": 0.5, "test_share": 0.5}),
        (Data, {"max_broken_share": 1.01}),
        (Data, {"workers": -1}),
        (Data, {"timeout_s": 0}),
        (Data, {"sha256": "ab"}),
        (Data, {"sha256": "z" * 64}),
        (Augment, {"rotate_deg": 181}),
        (Augment, {"shift": 1}),
        (Augment, {"contrast": -0.1}),
        (Augment, {"mixup": -1}),
        (Model, {"pool": "min"}),
        (Model, {"lr": 0}),
        (Model, {"lr": float("nan")}),
        (Model, {"weight_decay": -1}),
        (Model, {"feature_views": 0}),
        (Model, {"input_size_px": -1}),
        (Model, {"drop_rate": 1}),
        (Model, {"ema_decay": 1}),
        (Trainer, {"max_epochs": 0}),
        (Trainer, {"batch_size": 0}),
        (Trainer, {"patience": -1}),
        (Trainer, {"folds": 1}),
        (Trainer, {"folds": 101}),
        (Trainer, {"precision": "16"}),
        (Trainer, {"device": "tpu"}),
        (Trainer, {"grad_clip": -1}),
        (Track, {"kind": "mlflow"}),
        (Serve, {"max_batch": -1}),
        (Serve, {"queue_size": 0}),
        (Serve, {"queue_size": 63}),
        (Serve, {"queue_size": 9, "max_inputs": 10}),
        (Serve, {"max_upload_mb": -1}),
        (Config, {"seed": -1}),
        (Config, {"seed": 2**32}),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else str(v)[:40],
)
def test_a_value_out_of_range_is_refused_by_its_key(kind: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        kind(**values)
    section = "" if kind is Config else f"{kind.__name__.lower()}."
    assert raised.value.what.split(" ")[0] in {f"{section}{key}" for key in values}


def test_the_edges_of_the_ranges_are_taken() -> None:
    Data(sha256="aB" * 32, max_broken_share=0)
    Trainer(folds=2, max_epochs=1)
    Trainer(folds=100)
    Config(seed=2**32 - 1)
    Serve(queue_size=10, max_inputs=10)


def test_keys_name_every_leaf_with_its_type() -> None:
    keys = config.keys(task.get("trashnet").options)
    assert keys["model.lr"] is float
    assert keys["seed"] is int
    assert keys["task.block"] is int
    assert "task.block" not in config.keys(task.Options)
    n = sum(len(fields(f.default_factory)) for f in fields(Config) if is_dataclass(f.default_factory))  # type: ignore[arg-type]
    assert len(config.keys(task.Options)) == n + 2  # seed and tune


def test_groups_are_folders_with_their_files(tmp_path: Path) -> None:
    for name in ("model/b.yaml", "model/a.yaml", "recipe/x.yaml", "track/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert config.groups(tmp_path) == {"model": ["a", "b"], "track": []}
    assert {"task", "model", "trainer", "track", "serve"} <= set(config.groups(ROOT / "configs"))


def test_to_dict_is_plain_and_whole() -> None:
    plain = config.to_dict(Config())
    assert plain["model"]["lr"] == Model().lr
    leaves = {f"{k}.{leaf}" for k, v in plain.items() if isinstance(v, dict) for leaf in v}
    assert set(config.keys(task.Options)) == leaves | {k for k, v in plain.items() if not isinstance(v, dict)}


def test_the_bundle_keeps_every_setting_of_serving() -> None:
    assert bundle.ServeSettings(**config.to_dict(Serve())).model_dump() == config.to_dict(Serve())


@pytest.mark.parametrize(
    ("value", "kind", "fits"),
    [
        (1, int, True), ("1", int, True), (True, int, False), (1.0, int, False), ("x", int, False), (None, int, False),
        (2**63, int, False), (10**400, int, False), (1, float, True), ("1e-3", float, True), (True, float, False),
        (float("inf"), float, False), (float("nan"), float, False), ("nan", float, False), (10**400, float, False),
        (True, bool, True), ("yes", bool, True), (1, bool, True), (2, bool, False), ("maybe", bool, False),
        (None, bool, False), ("x", str, True), (5, str, True), (True, str, False), (None, str, False),
        ("a\0", str, False),
        ([1], str, False), ({}, float, False), ([1], list[int], True), (None, list[int], False), ("${x}", int, True),
        ("???", str, False),
    ],
    ids=lambda v: str(v)[:12],
)  # fmt: skip
def test_which_values_fit_a_type(value: object, kind: Any, fits: bool) -> None:
    if fits:
        config.check_value("k", value, kind, "")
        return
    with pytest.raises(ConfigError, match="in some file"):
        config.check_value("k", value, kind, "in some file")
