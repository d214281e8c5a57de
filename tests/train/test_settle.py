"""What a config leaves open is settled by rules alone: of backbone, data and processor."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_projects import Finished, changed, digits, net, view

from proj import engines
from proj.errors import ConfigError
from proj.train import settle
from proj.verbs.job import Job

AMX = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse amx_bf16 amx_tile\n"
OLD = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse avx512f\n"


@pytest.fixture(autouse=True)
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(AMX)
    monkeypatch.setattr(engines, "CPUINFO", path)
    return path


def job(finished: Finished, *overrides: str) -> Job:
    return digits(finished.project.root, "trainer.device=cpu", *overrides)


def settled(made: Job) -> tuple[str, int, str]:
    v = view(made)
    settle.settle(made.cfg, net(made, v), v)
    t = made.cfg.trainer
    return t.precision, t.threads, t.compile


def test_small_batches_have_one_thread_and_full_precision(finished: Finished) -> None:
    assert settled(job(finished)) == ("32", 1, "never")


@pytest.mark.parametrize(
    ("backbone", "flags", "precision"),
    [
        ("test_resnet", AMX, "bf16"),
        ("test_resnet", OLD, "32"),
        ("test_efficientnet", AMX, "32"),  # depthwise
        ("test_vit", AMX, "bf16"),
    ],
)
def test_bf16_where_it_pays(
    finished: Finished, cpu: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, flags: str, precision: str
) -> None:
    cpu.write_text(flags)
    monkeypatch.setattr(settle, "SMALL_BATCH", 0)
    size = 160 if backbone == "test_vit" else 32
    found = settled(changed(job(finished), backbone=backbone, input_size_px=size))
    assert found[0] == precision
    assert found[1] >= 1


def test_a_frozen_backbones_head_is_small(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "SMALL_BATCH", 0)
    assert settled(job(finished, "model.freeze=true")) == ("32", 1, "never")


def test_what_is_asked_for_stays(finished: Finished) -> None:
    words = ("trainer.precision=bf16", "trainer.threads=3", "trainer.compile=always")
    assert settled(job(finished, *words)) == ("bf16", 3, "always")


def test_compiling_without_a_compiler_is_refused(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        settled(job(finished, "trainer.compile=always"))


def test_the_processor_is_named_with_what_it_can(cpu: Path) -> None:
    assert settle.processor() == "Some CPU bf16"
    cpu.unlink()
    assert not engines.has_bf16()
