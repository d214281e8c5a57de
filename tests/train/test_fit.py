"""`proj.train.fit`: two trainings are equal bit for bit, and what is asked for happens. Real training, 240 rows."""

from __future__ import annotations

import csv
import functools
import itertools
import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_projects import Finished, digits, fitted, net, prepared, same, view

from proj import console
from proj.data import statistics
from proj.errors import CannotCompile, ConfigError, ResourceError
from proj.train import callbacks, fit, inputs, setup
from proj.train.data import Batches
from proj.verbs.job import Job

EACH_MATTERS = (
    "model.class_weights=true",
    "model.label_smoothing=0.2",
    "model.drop_rate=0.3",
    "model.drop_path_rate=0.3",
    "model.weight_decay=0.5",
    "trainer.grad_clip=0.01",
)


def job(finished: Finished, *overrides: str) -> Job:
    return digits(finished.project.root, "trainer.max_epochs=2", *overrides)


def journal(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def test_two_runs_of_one_config_end_in_equal_weights(finished: Finished, tmp_path: Path) -> None:
    overrides = ("augment.mixup=0.2", "model.drop_rate=0.2", "model.label_smoothing=0.1")
    first = fitted(job(finished, *overrides), tmp_path / "a")
    torch.rand(17)  # other randomness in between
    np.random.default_rng(0).random(3)
    assert same(first, fitted(job(finished, *overrides), tmp_path / "b"))
    assert not same(first, fitted(job(finished, *overrides, "seed=1"), tmp_path / "c"))


def test_the_journal_has_a_row_an_epoch_and_the_named_columns(finished: Finished, tmp_path: Path) -> None:
    fitted(job(finished), tmp_path / "a")
    rows = journal(tmp_path / "a")
    columns = ("epoch", "train_loss", "val_loss", "val_accuracy", "val_macro_f1", "lr", "seconds")
    assert tuple(rows[0]) == columns
    assert [r["epoch"] for r in rows] == ["0", "1"]
    assert all(float(r[c]) >= 0 for r in rows for c in columns)
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])


def test_checkpoints_hold_plain_values_and_the_best_is_what_is_returned(finished: Finished, tmp_path: Path) -> None:
    made = job(finished, "model.ema_decay=0.5")
    got = fitted(made, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    for name in ("best", "last"):
        content = torch.load(tmp_path / f"a/checkpoints/{name}.ckpt", weights_only=True)  # no code in it
        assert content["state_dict"]
    losses = [float(r["val_loss"]) for r in journal(tmp_path / "a")]
    best = torch.load(tmp_path / "a/checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == int(np.argmin(losses))
    loaded = net(made, view(made))
    fit.load_checkpoint(loaded, tmp_path / "a/checkpoints/best.ckpt")
    assert same(loaded, got)
    assert not got.training


def test_the_best_epoch_is_kept_when_later_ones_are_worse(finished: Finished, tmp_path: Path) -> None:
    # At this rate it first learns, then forgets: the last epoch is not the best.
    fitted(job(finished, "trainer.max_epochs=4", "model.lr=1.5", "trainer.grad_clip=0"), tmp_path / "a")
    losses = [float(r["val_loss"]) for r in journal(tmp_path / "a")]
    best = torch.load(tmp_path / "a/checkpoints/best.ckpt", weights_only=True)["epoch"]
    last = torch.load(tmp_path / "a/checkpoints/last.ckpt", weights_only=True)["epoch"]
    assert best == int(np.argmin(losses))
    assert last == 3


def test_bf16_learns_with_clipped_gradients(finished: Finished, tmp_path: Path) -> None:
    fitted(job(finished, "trainer.precision=bf16", "trainer.grad_clip=0.5", "model.input_size_px=32"), tmp_path / "a")
    rows = journal(tmp_path / "a")
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])


def test_early_stopping_stops(finished: Finished, tmp_path: Path) -> None:
    # With hardly any rate nothing gets better.
    made = job(finished, "trainer.max_epochs=9", "trainer.patience=2", "model.lr=1e-30", "model.ema_decay=0")
    fitted(made, tmp_path / "a")
    losses = [float(r["val_loss"]) for r in journal(tmp_path / "a")]
    assert int(np.argmin(losses)) + 3 == len(losses) < 9


def test_the_moving_average_is_what_is_evaluated(finished: Finished, tmp_path: Path) -> None:
    plain = fitted(job(finished, "model.ema_decay=0"), tmp_path / "a")
    slow = fitted(job(finished, "model.ema_decay=0.999"), tmp_path / "b")
    made = job(finished)
    start = net(made, view(made))

    def moved(n: torch.nn.Module) -> float:
        a, b = n.state_dict(), dict(start.named_parameters())
        return sum(float((a[k] - p.detach()).norm()) for k, p in b.items())

    assert 0 < moved(slow) < 0.999 * moved(plain)


def test_the_moving_average_forgets_its_start() -> None:
    update = callbacks._average(0.9)
    averaged, seen = [torch.zeros(1)], []
    for n in range(200):
        update(averaged, [torch.ones(1)], torch.tensor(n))
        seen.append(1 - float(averaged[0]))  # what is left of the start
    shares = [b / a for a, b in itertools.pairwise([1.0, *seen]) if b > 1e-6]
    assert shares[:3] == pytest.approx([1 / 10, 2 / 11, 3 / 12], rel=1e-3)
    assert max(shares) <= 0.9 + 1e-3


def test_class_weights_are_inverse_to_the_training_rows(finished: Finished) -> None:
    made = job(finished, "model.class_weights=true")
    v = view(made)
    weights = setup._class_weights(made.cfg, v)
    assert weights is not None
    counts = np.bincount(v.prepared.y[v.train], minlength=10)
    assert np.allclose(weights.numpy() * counts, len(v.train) / 10)
    assert setup._class_weights(job(finished).cfg, v) is None


def test_class_weights_and_smoothing_change_the_weights_learned(finished: Finished, tmp_path: Path) -> None:
    plain = fitted(job(finished, "trainer.max_epochs=1"), tmp_path / "a")
    for i, one in enumerate(EACH_MATTERS):
        assert not same(plain, fitted(job(finished, "trainer.max_epochs=1", one), tmp_path / str(i))), one


def test_a_device_that_is_not_there_is_a_config_error(finished: Finished, tmp_path: Path) -> None:
    missing = [d for d, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
               if not there]  # fmt: skip
    assert missing
    with pytest.raises(ConfigError, match=f"trainer.device={missing[0]} is not there"):
        fitted(job(finished, f"trainer.device={missing[0]}"), tmp_path / "a")


def test_losses_of_an_epoch_that_goes_on_are_where_the_others_will_be(tmp_path: Path) -> None:
    # On a GPU, a run that was stopped within an epoch once ended at the end of that epoch.
    trainer: Any = SimpleNamespace(global_step=0)
    model: Any = SimpleNamespace(device=torch.device("meta"))
    with console.progress(4, "train", "batches") as bar:
        journal = callbacks.Journal(tmp_path / "metrics.csv", bar)
        journal.load_state_dict({"rows": 1, "losses": torch.ones(3), "seconds": 2.0})
        journal.on_train_start(trainer, model)
    assert [loss.device.type for loss in journal.losses] == ["meta"] * 3


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's compiler finds nothing that compiles its code."""
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)


@pytest.mark.slow
@pytest.mark.usefixtures("no_compiler")
@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_a_network_that_cannot_be_compiled_is_an_error(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(CannotCompile, match=r"test_resnet cannot be compiled here; torch .*no-such-compiler.*=never"):
        fitted(job(finished, "trainer.compile=always"), tmp_path / "a")


def test_errors_that_are_not_the_compilers_stay_what_they_are(finished: Finished) -> None:
    made = job(finished, "trainer.compile=always", "trainer.threads=1")
    n = net(made, view(made))
    for e in (AssertionError("two is three"), RuntimeError("CUDA error: an illegal memory access")):
        with pytest.raises(type(e), match=str(e)), setup.computing(made.cfg, n, 240):
            raise e


def test_memory_that_runs_out_names_a_smaller_batch(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(fit, "_fit", out)
    with pytest.raises(ResourceError, match=r"no room; try trainer\.batch_size=16"):
        fitted(job(finished, "trainer.batch_size=32"), tmp_path / "a")


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\3\4 no zip"])
def test_a_checkpoint_that_is_missing_or_broken_is_an_error(
    finished: Finished, tmp_path: Path, content: bytes | None
) -> None:
    made = job(finished)
    if content is not None:
        (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(ResourceError, match="cannot be loaded"):
        fit.load_checkpoint(net(made, view(made)), tmp_path / "best.ckpt")


# --- batches and views


def batches(rows: int = 10, size: int = 4, **more: int) -> Batches:
    x = np.arange(rows * 2, dtype=np.uint8).reshape(rows, 2)
    return Batches(x, np.arange(rows), np.arange(rows), size, **more)


def test_batches_have_every_row_once_in_the_order_of_seed_and_epoch() -> None:
    b = batches(seed=1)
    first = [y.tolist() for _, y in b]
    assert [len(y) for y in first] == [4, 4, 2]
    assert len(b) == 3
    assert sorted(functools.reduce(operator.iadd, first, [])) == list(range(10))
    assert [y.tolist() for _, y in b] == first
    b.epoch = 1
    assert [y.tolist() for _, y in b] != first
    assert [y.tolist() for _, y in batches(seed=2)] != first
    for x, y in b:
        assert torch.equal(x[:, 0], y.to(torch.uint8) * 2)


def test_a_single_row_at_the_end_joins_the_batch_before_it() -> None:
    b = batches(rows=9, seed=1)
    assert [len(y) for _, y in b] == [4, 5]
    assert len(b) == 2
    assert sorted(functools.reduce(operator.iadd, (y.tolist() for _, y in b), [])) == list(range(9))
    assert [len(y) for _, y in batches(rows=9)] == [4, 4, 1]  # not where nothing learns
    assert [len(y) for _, y in batches(rows=9, seed=1, limit=1)] == [4]
    assert [len(y) for _, y in batches(rows=1, seed=1)] == [1]
    assert [len(y) for _, y in batches(rows=3, size=1, seed=1)] == [1, 1, 1]


def test_a_training_split_that_leaves_one_row_over_trains(finished: Finished, tmp_path: Path) -> None:
    rows = len(view(job(finished)).train)
    size = next(n for n in range(3, rows) if rows % n == 1)
    fitted(job(finished, f"trainer.batch_size={size}", "trainer.max_epochs=1", "model.input_size_px=0"), tmp_path / "a")
    with pytest.raises(ConfigError, match="cannot learn from batches of one row"):
        fitted(job(finished, "trainer.batch_size=1", "model.input_size_px=0"), tmp_path / "b")


def test_batches_without_a_seed_come_in_order_and_a_limit_cuts() -> None:
    assert [y.tolist() for _, y in batches()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [y.tolist() for _, y in batches(limit=1)] == [[0, 1, 2, 3]]
    assert len(batches(limit=1)) == 1


def test_each_fold_has_its_own_statistics(finished: Finished) -> None:
    p = prepared(finished.job)
    views = list(inputs.fold_views(p, 4, job(finished).cfg.model, seed=0, val_share=0.15))
    assert sorted(np.concatenate([v.test for v in views]).tolist()) == list(range(len(p.x)))
    assert len({tuple(v.mean) for v in views}) == 4
    for v in views:
        assert (v.mean, v.std) == statistics.channels(p.x, v.train)
        assert set(p.group[v.test]).isdisjoint(p.group[np.concatenate([v.train, v.val])])
        assert len(v.train) + len(v.val) + len(v.test) == len(p.x)


def test_the_shuffle_is_another_in_each_epoch(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    real = Batches.__iter__

    def watched(self: Batches) -> object:
        if self.seed is not None:
            epochs.append(self.epoch)
        return real(self)

    monkeypatch.setattr(Batches, "__iter__", watched)
    fitted(job(finished), tmp_path / "a")
    assert epochs[0] == 0
    assert epochs[-1] == 1
