"""The task `trashnet`: photos wherever the class folders are, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_projects import NAMES, photos
from serve.serving import Server

from proj.errors import ConfigError, DataError
from proj.task import Row
from proj.tasks.trashnet import TASK, Options


def read(source: Path, **options: int) -> list[Row]:
    return list(TASK.read(source, Options(**options)))


def ids(source: Path) -> list[str]:
    return [r.id for r in read(source)]


def test_rows_come_class_by_class_with_their_numbers_as_groups(tmp_path: Path) -> None:
    rows = read(photos(tmp_path, each=3))
    assert [r.id for r in rows[:4]] == [*(f"cardboard/cardboard{i}.jpg" for i in (0, 10, 20)), "glass/glass0.jpg"]
    assert [r.group for r in rows[:3]] == ["cardboard 0", "cardboard 1", "cardboard 2"]
    assert [r.y for r in rows] == [n for n in NAMES for _ in range(3)]
    assert [r.group for r in read(tmp_path, block=20)[:3]] == ["cardboard 0", "cardboard 0", "cardboard 1"]


def test_files_without_a_number_are_grouped_by_their_place(tmp_path: Path) -> None:
    photos(tmp_path, each=1)
    for i, name in enumerate("abcdefghijklm"):
        (tmp_path / f"glass/{name}.png").write_bytes(b"x")
        assert i < 13
    groups = {r.id: r.group for r in read(tmp_path)}
    assert groups["glass/a.png"] == "glass 0"
    assert groups["glass/m.png"] == "glass 1"


@pytest.mark.parametrize("inside", ["", "dataset-resized", "a/b/c"])
def test_class_folders_may_lie_deeper(tmp_path: Path, inside: str) -> None:
    photos(tmp_path / "flat", each=2)
    photos(tmp_path / "deep" / inside, each=2)
    assert ids(tmp_path / "deep") == ids(tmp_path / "flat")


def test_names_of_folders_and_suffixes_in_any_case(tmp_path: Path) -> None:
    photos(tmp_path, each=1)
    (tmp_path / "glass").rename(tmp_path / "GLASS")
    (tmp_path / "GLASS/glass0.jpg").rename(tmp_path / "GLASS/glass0.JPEG")
    assert "glass/glass0.JPEG" in ids(tmp_path)


def test_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    photos(tmp_path, each=1)
    (tmp_path / "glass/paper").mkdir()
    (tmp_path / "glass/paper/label7.jpg").write_bytes(b"x")
    rows = {r.id: r.y for r in read(tmp_path)}
    assert rows["glass/paper/label7.jpg"] == "glass"
    assert len(rows) == 7  # once


def test_a_data_set_that_comes_split_is_read_whole(tmp_path: Path) -> None:
    photos(tmp_path / "train", each=2)
    photos(tmp_path / "test", each=2)
    found = ids(tmp_path)
    assert len(found) == len(set(found)) == 24
    assert "train/glass/glass0.jpg" in found
    assert "test/glass/glass0.jpg" in found


def test_litter_is_left_out(tmp_path: Path) -> None:
    photos(tmp_path, each=1)
    for name in (
        "glass/._glass0.jpg",
        "glass/.trash/a.jpg",
        ".cache/glass/a.jpg",
        "glass/notes.txt",
        "glass/Thumbs.db",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert len(ids(tmp_path)) == 6


def test_a_hidden_folder_that_is_named_itself_is_read(tmp_path: Path) -> None:
    assert len(ids(photos(tmp_path / ".data", each=1))) == 6


def test_nothing_of_the_kind_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected <class>/\*\.jpg with the classes cardboard, .*proj data check"):
        read(tmp_path)


@pytest.mark.parametrize("key", ["block", "height_px", "width_px"])
def test_options_out_of_range_are_config_errors(key: str) -> None:
    with pytest.raises(ConfigError, match=f"task.{key} is 0"):
        Options(**{key: 0})


def test_the_sample_is_deterministic_and_has_the_shape_asked_for() -> None:
    a, b = (TASK.sample(7, Options(height_px=20, width_px=30)) for _ in range(2))
    assert [r.y for r in a] == [*NAMES, NAMES[0]]
    for p, q in zip(a, b, strict=True):
        assert isinstance(p.x, np.ndarray)
        assert p.x.shape == (20, 30, 3)
        assert np.array_equal(p.x, q.x)


# --- the real photos


def _proj(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "proj", *words],
        cwd=folder, capture_output=True, text=True, timeout=1800, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def _weights(real_data: Path) -> str:
    file = real_data / "pretrained/mobilenetv2_100_in1k_from_coral_qat.safetensors"
    return f"model.weights='{file}'"


@pytest.mark.real_data
@pytest.mark.slow
def test_five_folds_with_a_frozen_backbone_reach_the_bar(real_data: Path, tmp_path: Path) -> None:
    import json

    said = json.loads(
        _proj(tmp_path, "train", "task=trashnet", f"data.source='{real_data / 'trashnet'}'", _weights(real_data),
              "model=pretrained", "model.backbone=mobilenetv2_100", "model.freeze=true", "trainer.folds=5", "--json")
    )  # fmt: skip
    assert len(said["folds"]) == 5
    assert sum(f["rows"] for f in said["folds"]) == len(list((real_data / "trashnet").rglob("*.jpg")))
    assert said["mean"]["accuracy"] >= 0.83


@pytest.mark.real_data
@pytest.mark.slow
def test_command_server_and_checkpoint_agree_on_a_hundred_photos(real_data: Path, tmp_path: Path) -> None:
    import json

    import torch
    from made_projects import ROOT, prepared

    from proj import infer
    from proj.project import Project
    from proj.train import evaluate, fit, inputs
    from proj.train import net as nets
    from proj.verbs import job as jobs

    quarter = tmp_path / "photos"  # every fourth: what agrees does not hang on how many were trained on
    for file in sorted((real_data / "trashnet").rglob("*.jpg"))[::4]:
        (quarter / file.parent.name).mkdir(parents=True, exist_ok=True)
        (quarter / file.parent.name / file.name).symlink_to(file)
    name = (f"data.source='{quarter}'", _weights(real_data), "model.backbone=mobilenetv2_100")
    words = ["task=trashnet", "model=pretrained", *name, "model.freeze=true", "trainer.max_epochs=3"]
    _proj(tmp_path, "train", *words, "--name", "one")
    run = tmp_path / "models/trashnet/one"
    made = jobs.of_run(run, Project(tmp_path, ROOT / "configs", "test"))
    p = prepared(made)
    v = inputs.view(p, made.cfg.model)
    files = [quarter / str(i) for i in p.id[:: len(p.id) // 100][:100]]
    torch.manual_seed(0)
    net = nets.build(made.cfg.model, v)
    fit.load_checkpoint(net, run / "checkpoints/best.ckpt")
    evaluate.calibrated(net, made.cfg, v)
    torch_says = evaluate.answers(net, v, np.arange(len(p.x))[:: len(p.id) // 100][:100])
    command = json.loads(_proj(tmp_path, "predict", *map(str, files), "--run", str(run), "--json"))
    with Server(run / "bundle", tmp_path / "server-0.log") as server:
        served = [server.client.post("/predict", content=f.read_bytes(), headers={"content-type": "image/jpeg"}).json()
                  for f in files]  # fmt: skip
    for answers in (command, served):
        got = np.array([[a["probabilities"][n] for n in NAMES] for a in answers])
        assert np.allclose(got, torch_says, rtol=infer.RTOL, atol=infer.ATOL)
    assert (torch_says.argmax(1) == p.y[:: len(p.id) // 100][:100]).mean() > 0.6
    assert re.search("mobilenet", (run / "config.yaml").read_text())
