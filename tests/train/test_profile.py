"""What the time of a training goes to: sections, operations, FLOPs, the roof, the rules; and `trainer.profiler`."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_projects import digits, fitted, net, view

from proj.train import advice, measure, profile, roof, watch
from proj.train.advice import Advice, Facts
from proj.train.data import Batches, View
from proj.train.measure import Profile
from proj.verbs.job import Job

FACTS = Facts(
    device="cpu",
    bf16=False,
    bf16_units=False,
    threads=2,
    cores=2,
    workers=0,
    batch_size=64,
    train_rows=5000,
    step_s=0.1,
    frozen=False,
    cached=True,
    augmented=False,
    geometric=False,
    checkpoint_every_steps=0,
    shares=dict.fromkeys(watch.SECTIONS, 0.0) | {"forward": 0.4, "backward": 0.6},
    operations={"depthwise": 0.1, "convolution": 0.3, "matmul": 0.1, "other": 0.5},
    device_busy=None,
)
# What is measured, and the changes that the rules make of it.
RULES: list[tuple[str, dict[str, Any], list[tuple[str, ...]]]] = [
    ("all is well", {}, []),
    ("input just under its bound", {"shares": {"input": 0.15}}, []),
    ("input", {"shares": {"input": 0.16}}, [("trainer.workers=2",)]),
    ("input in spite of workers", {"shares": {"input": 0.5}, "workers": 2}, [()]),
    ("frozen, computed anew", {"frozen": True, "cached": False}, [("model.cache=true",)]),
    (
        "the same with augmentation",
        {"frozen": True, "cached": False, "augmented": True, "shares": {"augmentation": 0.5}},
        [("model.cache=true", "model.feature_views=4")],
    ),
    ("frozen and kept", {"frozen": True}, []),
    (
        "depthwise in bf16",
        {"bf16": True, "operations": {"depthwise": 0.4, "convolution": 0.2}},
        [("trainer.precision=32",)],
    ),
    (
        "depthwise in bf16 on a GPU",
        {"bf16": True, "device": "cuda", "device_busy": 0.9, "operations": {"depthwise": 0.6}},
        [],
    ),
    ("depthwise in full precision", {"bf16_units": True, "operations": {"depthwise": 0.4, "convolution": 0.2}}, []),
    (
        "plain convolutions, AMX",
        {"bf16_units": True, "operations": {"depthwise": 0.0, "convolution": 0.7}},
        [("trainer.precision=bf16",)],
    ),
    ("plain convolutions, no AMX", {"operations": {"depthwise": 0.0, "convolution": 0.7}}, []),
    (
        "plain convolutions in bf16",
        {"bf16": True, "bf16_units": True, "operations": {"convolution": 0.7, "depthwise": 0.0}},
        [],
    ),
    (
        "loop of a tiny model",
        {"step_s": 0.001, "threads": 1, "shares": {"loop": 0.2, "callbacks": 0.11}},
        [("trainer.batch_size=256",)],
    ),
    ("loop, few rows", {"step_s": 0.001, "threads": 1, "train_rows": 600, "shares": {"loop": 0.5}}, []),
    ("one thread, long steps", {"threads": 1}, [("trainer.threads=2",)]),
    ("one thread, middling steps", {"threads": 1, "step_s": 0.03}, []),
    ("one thread, short steps", {"threads": 1, "step_s": 0.002}, []),
    ("threads that wait, short steps", {"step_s": 0.002, "shares": {"idle": 0.4}}, [("trainer.threads=1",)]),
    ("a busy machine, one thread", {"threads": 1, "step_s": 0.001, "shares": {"idle": 0.4}}, [()]),
    ("a busy machine", {"shares": {"idle": 0.4}}, [()]),
    (
        "turns",
        {"augmented": True, "geometric": True, "shares": {"augmentation": 0.3}},
        [("augment.rotate_deg=0", "augment.shift=0", "augment.scale=0")],
    ),
    ("noise", {"augmented": True, "shares": {"augmentation": 0.3}}, [()]),
    ("pixels alone", {"shares": {"augmentation": 0.3}}, []),
    ("an idle GPU", {"device": "cuda", "device_busy": 0.3}, [("trainer.batch_size=256",)]),
    ("an idle GPU, few rows", {"device": "cuda", "device_busy": 0.3, "train_rows": 900}, [()]),
    (
        "checkpoints",
        {"checkpoint_every_steps": 5, "shares": {"checkpoints": 0.2}},
        [("trainer.checkpoint_every_steps=50",)],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), [r[1:] for r in RULES], ids=[r[0] for r in RULES])
def test_the_rules(given: dict[str, Any], wanted: list[tuple[str, ...]]) -> None:
    merged = {k: {**getattr(FACTS, k), **v} if isinstance(v, dict) else v for k, v in given.items()}
    found = advice.advise(replace(FACTS, **merged))
    assert [a.change for a in found] == wanted
    assert all(a.why for a in found)


def test_every_rule_is_tried_by_the_table() -> None:
    applied = {rule for rule in advice.RULES for _, given, wanted in RULES if wanted and rule(_merged(given))}
    assert applied == set(advice.RULES)


def _merged(given: dict[str, Any]) -> Facts:
    return replace(FACTS, **{k: {**getattr(FACTS, k), **v} if isinstance(v, dict) else v for k, v in given.items()})


@pytest.mark.parametrize(
    ("action", "between", "wanted"),
    [
        ("[_TrainingEpochLoop].train_dataloader_next", False, "input"),
        ("[Strategy]SingleDeviceStrategy.batch_to_device", False, "input"),
        ("augment", False, "augmentation"),
        ("[Strategy]SingleDeviceStrategy.training_step", False, "forward"),
        ("[Strategy]SingleDeviceStrategy.backward", False, "backward"),
        ("[LightningModule]LitModel.optimizer_step", False, "optimizer"),
        ("[LightningModule]LitModel.configure_gradient_clipping", False, "optimizer"),
        ("[LightningModule]LitModel.on_before_backward", False, "callbacks"),
        ("[Callback]Journal.on_train_batch_end", False, "callbacks"),
        ("[Callback]ModelCheckpoint{'monitor': 'val_loss'}.on_train_batch_end", False, "checkpoints"),
        ("[Callback]Journal.on_train_epoch_end", True, "validation"),
        ("save_checkpoint", True, "checkpoints"),
        ("run_training_batch", False, "loop"),
        ("", False, "loop"),
        ("", True, "validation"),
    ],
)
def test_sections(action: str, between: bool, wanted: str) -> None:
    assert watch.section(action, between) == wanted


@pytest.mark.parametrize(
    ("name", "shapes", "wanted"),
    [
        ("aten::mkldnn_convolution", [[8, 16, 9, 9], [16, 1, 3, 3], [16], [], []], "depthwise"),
        ("aten::mkldnn_convolution", [[8, 16, 9, 9], [32, 16, 3, 3], [], [], []], "convolution"),
        ("aten::mkldnn_convolution", [[8, 1, 9, 9], [32, 1, 3, 3], [], [], []], "convolution"),
        ("aten::convolution_backward", [[8, 16, 9, 9], [8, 16, 9, 9], [16, 1, 3, 3], []], "depthwise"),
        ("aten::convolution_backward", [[8, 16, 9], [8, 4, 9], [16, 4, 3], []], "convolution"),
        ("aten::addmm", [[10], [8, 16], [16, 10], [], []], "matmul"),
        ("aten::native_batch_norm", [[8, 16, 9, 9], [16], [16]], "other"),
    ],
)
def test_kinds_of_operations(name: str, shapes: Any, wanted: str) -> None:
    assert watch.operation_kind(name, shapes) == wanted


def _event(name: str, *, us: float, where: str, shapes: Any = (), span: bool = False) -> SimpleNamespace:
    kind = getattr(torch.autograd.DeviceType, where)  # type: ignore[attr-defined]
    return SimpleNamespace(
        key=name, self_device_time_total=us, self_cpu_time_total=7.0, device_type=kind, input_shapes=list(shapes),
        is_user_annotation=span, count=2,
    )  # fmt: skip


def test_a_gpus_time_is_counted_once_and_without_the_spans_around_it() -> None:
    # A real one's 2.5 ms in a step of 33 were once 97.5 % of it: kernels counted twice, and the optimizer's whole step.
    conv = [[8, 16, 9, 9], [32, 16, 3, 3]]
    each = [
        _event("aten::cudnn_convolution", us=600.0, where="CPU", shapes=conv),
        _event("implicit_gemm<...>", us=600.0, where="CUDA"),
        _event("Optimizer.step#AdamW.step", us=9000.0, where="CPU", span=True),
        _event("Optimizer.step#AdamW.step", us=9000.0, where="CUDA", span=True),
        _event("triton_poi_fused_add_0", us=200.0, where="CUDA"),
        _event("aten::empty", us=0.0, where="CPU"),
    ]
    recorded: Any = SimpleNamespace(key_averages=lambda **_: each)
    found, device_s = watch.operations(recorded, 2, "cuda")
    assert device_s == pytest.approx(400e-6)
    assert [(o.name, o.kind, o.share) for o in found] == [
        ("cudnn_convolution", "convolution", pytest.approx(0.75)),
        ("kernels of no operation", "other", pytest.approx(0.25)),
    ]
    assert sum(o.seconds for o in found) == pytest.approx(device_s)
    nothing: Any = SimpleNamespace(key_averages=lambda **_: [])
    assert watch.operations(nothing, 2, "mps") == ([], 0.0)
    on_cpu, cpu_s = watch.operations(recorded, 1, "cpu")
    assert cpu_s == pytest.approx(7e-6 * len(each))
    assert "Python" in {o.name for o in on_cpu}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own speed is looked at shortly."""
    monkeypatch.setattr(measure, "ROOF_S", 0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder; the digits are prepared in it once."""
    return tmp_path_factory.mktemp("profiled")


def measured(job: Job, folder: Path, *, steps: int = 6, v: View | None = None) -> Profile:
    return measure.measure(job.cfg, v or view(job), folder / "features", steps=steps)


def advised(p: Profile) -> list[Advice]:
    return advice.advise(advice.facts(p))


@pytest.mark.slow
def test_a_real_training_is_measured(home: Path, tmp_path: Path) -> None:
    job = digits(home, "model.input_size_px=32", "augment.rotate_deg=10", "trainer.batch_size=64")
    p = measured(job, tmp_path)
    shares = p.seen.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert all(s >= 0 for s in shares.values())
    assert min(shares[k] for k in ("input", "augmentation", "forward", "backward", "optimizer", "loop")) > 0
    assert (p.seen.steps, p.seen.action_steps) == (6, 6)
    assert p.rows_per_s * p.seen.seconds == pytest.approx(2 * len(view(job).train), rel=1e-6)  # three steps an epoch
    assert p.seen.epoch_ends >= 1
    assert shares["validation"] > 0
    assert sum(o.share for o in p.seen.operations) == pytest.approx(1)
    assert p.seen.operations == sorted(p.seen.operations, key=lambda o: -o.seconds)
    assert {o.name for o in p.seen.operations} >= {"convolution_backward", "Python"}
    assert 0 < p.flops_per_s < max(p.roof.matmul, p.roof.convolution) * 1.5
    assert p.memory_bytes is None or p.memory_bytes > 50e6


@pytest.mark.slow
def test_no_run_and_no_thread_count_stays(home: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    job = digits(home, "track=wandb", "trainer.profiler=simple")
    p = measured(job, tmp_path, steps=2)
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == before
    assert job.cfg.trainer.threads == 0  # the job is as it was; what was settled is in the answer
    assert p.cfg.trainer.threads == 1


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])  # the second has depthwise convolutions
def test_flops_are_those_of_forward_and_backward(home: Path, tmp_path: Path, backbone: str) -> None:
    job = digits(home, "model.input_size_px=32", f"model.backbone={backbone}")
    v = view(job)
    p = measured(job, tmp_path, steps=2, v=v)
    forward = 0.0

    def count(m: torch.nn.Module, _: Any, y: torch.Tensor) -> None:
        nonlocal forward
        w = m.weight  # type: ignore[attr-defined]
        places = y.shape[2:].numel() if y.dim() == 4 else 1
        forward += 2 * w.numel() * places  # type: ignore[operator]

    n = net(job, v).eval()
    for m in n.modules():
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear):
            m.register_forward_hook(count)
    n(torch.from_numpy(v.x[:1].copy()))
    # Each product has two gradients, but the first layer has none of its inputs.
    assert 2 * forward < p.flops_per_row <= 3 * forward


class Slow:
    """Rows that come late, as from a slow disk."""

    def __init__(self, x: Any, wait_s: float) -> None:
        self.x, self.wait_s = x, wait_s

    def __getitem__(self, rows: Any) -> Any:
        time.sleep(self.wait_s)
        return self.x[rows]


@pytest.mark.slow
def test_slow_batches_are_seen_and_the_advice_helps(home: Path, tmp_path: Path) -> None:
    job = digits(home, "trainer.batch_size=16")
    v = view(job)
    step_s = 16 / measured(job, tmp_path, steps=4, v=v).rows_per_s  # of this machine, as busy as it is
    slow = replace(v, x=Slow(v.x, 3 * step_s))
    p = measured(job, tmp_path, steps=4, v=slow)
    assert p.seen.shares()["input"] > 0.5
    assert advised(p)[0].change == ("trainer.workers=2",)
    helped = measured(digits(home, "trainer.batch_size=16", "trainer.workers=2"), tmp_path, steps=4, v=slow)
    assert helped.rows_per_s > 1.2 * p.rows_per_s


@pytest.mark.slow
def test_a_frozen_backbone_with_its_cache(home: Path, tmp_path: Path) -> None:
    job = digits(home, "model.freeze=true", "model.input_size_px=32")
    p = measured(job, tmp_path)
    assert p.extraction is not None
    assert 32 < p.extraction.rows <= 240
    assert p.extraction.seconds == pytest.approx(240 / p.extraction.rows_per_s)
    assert any(o.kind == "convolution" for o in p.extraction.operations)
    assert not any(o.kind == "convolution" for o in p.seen.operations)  # the head's steps
    assert len(list((tmp_path / "features").rglob("*.npy"))) == 1  # training will find them


@pytest.mark.slow
def test_features_that_take_long_are_made_in_part(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ALL_S", 0.0)
    monkeypatch.setattr(measure, "PART_S", 0.01)
    p = measured(digits(home, "model.freeze=true"), tmp_path)
    assert p.train_rows < 168
    assert not (tmp_path / "features").exists()


@pytest.mark.slow
def test_a_frozen_backbone_without_its_cache_is_told_of_it(home: Path, tmp_path: Path) -> None:
    job = digits(home, "model.freeze=true", "model.cache=false", "model.input_size_px=32")
    p = measured(job, tmp_path)
    assert any(o.kind == "convolution" for o in p.seen.operations)
    assert advised(p)[0].change[0] == "model.cache=true"


def test_a_part_has_rows_of_each_split(home: Path) -> None:
    v = view(digits(home))
    part = measure._part(v, 24)
    assert [len(r) for r in (part.train, part.val, part.test)] == [
        max(1, round(0.1 * len(r))) for r in (v.train, v.val, v.test)
    ]
    assert np.array_equal(part.x[part.val], v.x[v.val[: len(part.val)]])
    assert np.array_equal(part.prepared.y[part.val], v.prepared.y[v.val[: len(part.val)]])


@pytest.mark.parametrize(("n", "size"), [(10, 4), (9, 4), (8, 4), (3, 4), (1, 4), (5, 1), (129, 64)])
def test_rows_of_a_step_are_those_of_batches(n: int, size: int) -> None:
    batches = Batches(np.arange(n), np.arange(n), np.arange(n), size, seed=0)
    wanted = [len(x) for x, _ in batches] * 2
    assert [measure._rows_at(i, n, size) for i in range(len(wanted))] == wanted


def test_the_roof_holds_what_the_machine_did() -> None:
    before = torch.get_num_threads()
    found = roof.roof("cpu", "32-true", 1, seconds=0.05)
    assert torch.get_num_threads() == before
    a = torch.rand(512, 512)
    start = time.perf_counter()
    a @ a
    assert found.matmul > 0.2 * 2 * 512**3 / (time.perf_counter() - start)
    assert 1e8 < found.convolution < 1e13
    assert roof.roof("cpu", "bf16-mixed", 1, seconds=0.0).matmul > 0


@pytest.mark.parametrize("kind", ["simple", *(pytest.param(k, marks=pytest.mark.slow) for k in ("advanced", "torch"))])
def test_the_profilers_write_into_the_run(home: Path, tmp_path: Path, kind: str) -> None:
    job = digits(home, f"trainer.profiler={kind}", "trainer.max_epochs=4", "trainer.batch_size=32")
    fitted(job, tmp_path / "a")
    written = {p.name: p for p in (tmp_path / "a/profile").iterdir()}
    if kind != "torch":
        assert set(written) == {f"fit-{kind}.txt"}
        assert "training_step" in written[f"fit-{kind}.txt"].read_text(encoding="utf-8")
        return
    assert set(written) == {"operations.txt", "trace.json"}
    assert "aten::convolution_backward" in written["operations.txt"].read_text(encoding="utf-8")
    events = json.loads(written["trace.json"].read_text(encoding="utf-8"))["traceEvents"]
    parts = [e for e in events if e.get("name", "").endswith(".training_step") and e.get("cat") == "user_annotation"]
    assert len(parts) == profile.TRACED  # steps, and nothing of the validation after them
    assert not any("validation_step" in e.get("name", "") for e in events)
    assert written["trace.json"].stat().st_size < 20e6


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "traced"), [(1, 0), (2, 0), (3, 1)])
def test_a_trace_of_short_epochs_ends_with_its_epoch(home: Path, tmp_path: Path, epochs: int, traced: int) -> None:
    """One batch an epoch: the third step is the only one that is traced."""
    job = digits(home, "trainer.profiler=torch", f"trainer.max_epochs={epochs}", "trainer.batch_size=256")
    fitted(job, tmp_path / "a")
    assert len(list((tmp_path / "a/profile").iterdir())) == 2 * traced


def test_no_profiler_leaves_no_folder(home: Path, tmp_path: Path) -> None:
    fitted(digits(home, "trainer.max_epochs=1"), tmp_path / "a")
    assert not (tmp_path / "a/profile").exists()
