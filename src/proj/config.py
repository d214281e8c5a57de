"""What can be configured: keys, types, meanings and ranges. The numbers live in `configs/*.yaml`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from proj.errors import ConfigError
from proj.task import Options

SHA256 = re.compile("[0-9a-fA-F]{64}")
LARGEST_INT = 2**63 - 1
TUNED = ("off", "auto", "lr", "batch", "threads", "precision", "compile", "workers")
SWITCHES = {"true", "false", "yes", "no", "on", "off", "y", "n", "1", "0"}  # words that OmegaConf takes for a bool


def _require(ok: bool, key: str, found: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"{key} is out of range", found=f"{found!r}; it must be {wanted}", next="see `proj config`")


@dataclass(kw_only=True)
class Data:
    """Where data come from and how they are split. Shares are of groups, 0..1."""

    source: str = "default"  # default | sample | a path | an archive | https:// | gs:// | hf://datasets/OWNER/NAME | kaggle://OWNER/NAME
    sha256: str = ""  # of the downloaded file; checked when set
    split: str = "hash"  # hash: by hash(split_seed, group) | tail: the last rows of the source are the test split
    split_seed: int = 0
    val_share: float = 0.15
    test_share: float = 0.15
    max_broken_share: float = 0.01  # prepare stops when more of the files than this cannot be read
    workers: int = 0  # processes that decode; 0: one a core
    timeout_s: float = 20.0  # to reach a host
    cache_gb: float = 10.0  # of features and the like under data/features; what was used least recently goes first

    def __post_init__(self) -> None:
        _require(self.split in {"hash", "tail"}, "data.split", self.split, "hash or tail")
        _require(0 < self.val_share < 1, "data.val_share", self.val_share, "between 0 and 1")
        _require(0 < self.test_share < 1, "data.test_share", self.test_share, "between 0 and 1")
        _require(
            self.val_share + self.test_share < 1,
            "data.val_share",
            self.val_share,
            "under 1 with data.test_share",
        )
        _require(0 <= self.max_broken_share <= 1, "data.max_broken_share", self.max_broken_share, "from 0 to 1")
        _require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        _require(self.timeout_s > 0, "data.timeout_s", self.timeout_s, "over 0")
        _require(self.cache_gb > 0, "data.cache_gb", self.cache_gb, "over 0")
        _require(
            not self.sha256 or SHA256.fullmatch(self.sha256) is not None,
            "data.sha256",
            self.sha256,
            "64 hexadecimal digits",
        )


@dataclass(kw_only=True)
class Augment:
    """Random changes to a training batch; 0 or false switches each off. Angles in degrees, the rest in shares."""

    flip: bool = False  # left to right
    crop: float = 0.0  # smallest share of the area that is kept and enlarged (Szegedy et al. 2015)
    rotate_deg: float = 0.0
    shift: float = 0.0  # of the width and height
    scale: float = 0.0  # 0.1: from 0.9 to 1.1 times
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0  # of pictures in colour, and so the next
    hue_deg: float = 0.0
    randaugment: int = 0  # operations a picture, out of fourteen (Cubuk et al. 2020)
    randaugment_magnitude: float = 0.3  # of each of them, 0..1
    grid_dropout: float = 0.0  # share of the area that is erased, as a grid of boxes (Chen et al. 2020)
    mixup: float = 0.0  # alpha of the Beta distribution (Zhang et al. 2018)
    cutmix: float = (
        0.0  # likewise (Yun et al. 2019), pictures and classes alone; with mixup: one of both for each batch
    )
    token_drop: float = 0.0  # texts: share of the ids that are left out
    jitter: float = 0.0  # series: noise, in standard deviations of each channel
    amplitude: float = 0.0  # series: 0.1: each channel times 0.9 to 1.1
    time_shift: float = 0.0  # series: of the window's length; the ends are repeated

    def __post_init__(self) -> None:
        for key in ("rotate_deg", "hue_deg"):
            _require(0 <= getattr(self, key) <= 180, f"augment.{key}", getattr(self, key), "from 0 to 180")
        for key in ("shift", "scale", "crop", "grid_dropout"):
            _require(0 <= getattr(self, key) < 1, f"augment.{key}", getattr(self, key), "from 0 to under 1")
        for key in ("brightness", "contrast", "saturation", "token_drop", "amplitude", "time_shift"):
            _require(0 <= getattr(self, key) < 1, f"augment.{key}", getattr(self, key), "from 0 to under 1")
        for key in ("mixup", "cutmix", "jitter"):
            _require(getattr(self, key) >= 0, f"augment.{key}", getattr(self, key), "0 or more")
        _require(0 <= self.randaugment <= 10, "augment.randaugment", self.randaugment, "from 0 to 10")
        _require(
            0 <= self.randaugment_magnitude <= 1,
            "augment.randaugment_magnitude",
            self.randaugment_magnitude,
            "from 0 to 1",
        )


@dataclass(kw_only=True)
class Model:
    """A backbone, a new head, and how they learn."""

    backbone: str = ""  # the encoder; left empty it is, by the task's modality, one of the next three
    image: str = "resnet10t"  # any name of timm.list_models()
    text: str = "transformer"  # transformer | convolutions | linear, or a hub's name or a folder of transformers
    series: str = "convolutions"  # convolutions | lstm
    pretrained: bool = False  # weights from the hub
    weights: str = ""  # a local .safetensors / .pt file in the hub's place
    freeze: bool = False  # the backbone runs once over the data, only the head learns
    cache: bool = True  # with freeze: features are computed once and kept; false: anew for every batch
    feature_views: int = 1  # with freeze and cache: so many views of each row are cached, all but the first augmented
    feature_precision: str = "32"  # with freeze and cache: 32 | bf16, which moves accuracy within its noise
    input_size_px: int = 0  # the longer side of what the backbone sees; 0: the prepared size
    pool: str = "avg"  # avg | max | avgmax | catavgmax
    width: int = 128  # features of text and series encoders from scratch
    layers: int = 2
    vocabulary: int = 8000  # of the tokenizer that is trained on the task's own texts
    max_tokens: int = 256  # a text's ids beyond it are cut off
    buckets: int = 262_144  # of the hashed n-grams of text=linear
    hidden: int = 0  # features of a layer between the encoder and the output; 0: none
    loss: str = "huber"  # of tasks with values: mse | smooth-l1 | huber, on targets in standard deviations
    calibrate: bool = True  # classes: one temperature, fitted on the validation split, divides the logits
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.1  # of all steps
    label_smoothing: float = 0.0
    class_weights: bool = False  # inverse to the frequency in the training split
    ema_decay: float = 0.0  # moving average of the weights, which is then what is evaluated; 0: none

    def __post_init__(self) -> None:
        _require(
            self.pool in {"avg", "max", "avgmax", "catavgmax"},
            "model.pool",
            self.pool,
            "avg, max, avgmax or catavgmax",
        )
        _require(self.loss in {"mse", "smooth-l1", "huber"}, "model.loss", self.loss, "mse, smooth-l1 or huber")
        for key in ("width", "layers", "max_tokens", "buckets"):
            _require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "1 or more")
        _require(self.vocabulary >= 300, "model.vocabulary", self.vocabulary, "300 or more: 256 are single bytes")
        _require(self.hidden >= 0, "model.hidden", self.hidden, "0 or more")
        _require(self.lr > 0, "model.lr", self.lr, "over 0")
        _require(self.weight_decay >= 0, "model.weight_decay", self.weight_decay, "0 or more")
        _require(self.feature_views >= 1, "model.feature_views", self.feature_views, "1 or more")
        _require(
            self.feature_precision in {"32", "bf16"}, "model.feature_precision", self.feature_precision, "32 or bf16"
        )
        _require(self.input_size_px >= 0, "model.input_size_px", self.input_size_px, "0 or more")
        for key in ("drop_rate", "drop_path_rate", "warmup_share", "label_smoothing", "ema_decay"):
            _require(0 <= getattr(self, key) < 1, f"model.{key}", getattr(self, key), "from 0 to under 1")


@dataclass(kw_only=True)
class Trainer:
    max_epochs: int = 30
    batch_size: int = 64
    patience: int = 0  # epochs without a better validation loss before it stops; 0: never early
    folds: int = 0  # 5: cross-validation by group instead of one split
    precision: str = "auto"  # auto | 32 | bf16; auto: a rule of backbone and processor, see train/settle.py
    device: str = "auto"  # auto | cpu | cuda | mps
    threads: int = 0  # of one operation on the CPU; 0: one for small batches, else one a core
    workers: int = 0  # threads that read batches ahead; the arrays are mapped, so that slow disks alone need them
    compile: str = "never"  # never | always; tune=compile says whether it pays
    grad_clip: float = 1.0  # norm of the gradient; 0: none
    deterministic: bool = True
    checkpoint_every_min: float = 5.0  # to resume from, beside the one of each epoch's end; 0: none
    checkpoint_every_steps: int = 0  # likewise, by count; 0: none
    keep_checkpoints: int = 2  # so many of the newest
    profiler: str = "off"  # off | simple | advanced | torch: what took the time, in the run's profile/

    def __post_init__(self) -> None:
        for key in ("threads", "workers", "checkpoint_every_min", "checkpoint_every_steps"):
            _require(getattr(self, key) >= 0, f"trainer.{key}", getattr(self, key), "0 or more")
        _require(self.keep_checkpoints >= 1, "trainer.keep_checkpoints", self.keep_checkpoints, "1 or more")
        _require(
            self.compile in {"always", "never"},
            "trainer.compile",
            self.compile,
            "never or always",
        )
        _require(
            self.profiler in {"off", "simple", "advanced", "torch"},
            "trainer.profiler",
            self.profiler,
            "off, simple, advanced or torch",
        )
        _require(self.max_epochs >= 1, "trainer.max_epochs", self.max_epochs, "1 or more")
        _require(self.batch_size >= 1, "trainer.batch_size", self.batch_size, "1 or more")
        _require(self.patience >= 0, "trainer.patience", self.patience, "0 or more")
        _require(self.folds == 0 or 2 <= self.folds <= 100, "trainer.folds", self.folds, "0, or from 2 to 100")
        _require(self.precision in {"auto", "32", "bf16"}, "trainer.precision", self.precision, "auto, 32 or bf16")
        _require(
            self.device in {"auto", "cpu", "cuda", "mps"},
            "trainer.device",
            self.device,
            "auto, cpu, cuda or mps",
        )
        _require(self.grad_clip >= 0, "trainer.grad_clip", self.grad_clip, "0 or more")


@dataclass(kw_only=True)
class Track:
    """Where metrics go besides the run's own metrics.csv."""

    kind: str = "csv"  # csv | tensorboard | wandb
    project: str = "proj"

    def __post_init__(self) -> None:
        _require(self.kind in {"csv", "tensorboard", "wandb"}, "track.kind", self.kind, "csv, tensorboard or wandb")


@dataclass(kw_only=True)
class Serve:
    """Written into the bundle at export; `proj serve` never reads Hydra."""

    max_upload_mb: float = 20.0
    max_pixels: int = 64_000_000
    max_inputs: int = 64
    queue_size: int = 64
    max_batch: int = 0  # 0: what the engine gains by
    threshold: float = 0.0  # answers less sure than this carry no label

    def __post_init__(self) -> None:
        _require(0 <= self.threshold <= 1, "serve.threshold", self.threshold, "from 0 to 1")
        _require(self.max_batch >= 0, "serve.max_batch", self.max_batch, "0 or more")
        for f in fields(self):
            if f.name not in {"threshold", "max_batch"}:
                _require(getattr(self, f.name) > 0, f"serve.{f.name}", getattr(self, f.name), "over 0")
        _require(
            self.queue_size >= self.max_inputs,
            "serve.queue_size",
            self.queue_size,
            f"serve.max_inputs ({self.max_inputs}) or more",
        )


@dataclass(kw_only=True)
class Config:
    seed: int = 0
    tune: str = "off"  # one of TUNED: settings that are found by trying, before the run begins; see verbs/train.py
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    trainer: Trainer = field(default_factory=Trainer)
    track: Track = field(default_factory=Track)
    serve: Serve = field(default_factory=Serve)
    task: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 4294967295")
        _require(self.tune in TUNED, "tune", self.tune, ", ".join(TUNED))


def keys(options: type[Options], root: type[Any] = Config, prefix: str = "") -> dict[str, Any]:
    """Every leaf key and its type, e.g. {"model.lr": float, ...}."""
    found: dict[str, Any] = {}
    hints = get_type_hints(root)
    for f in fields(root):
        kind = options if hints[f.name] is Options else hints[f.name]
        if is_dataclass(kind):
            found |= keys(options, kind, f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = kind
    return found


def check_value(key: str, value: Any, kind: Any, where: str) -> None:
    """Refuse what OmegaConf would quietly turn into something else: true into 1, 2 into true, nan, no value."""
    if isinstance(value, str) and "${" in value:
        return  # a reference: checked again when it is resolved
    if value == "???":
        raise ConfigError(f"{key} has no value", found=", ".join(filter(None, ["???", where])), next=f"set {key}=...")
    if not _fits(value, kind):
        raise wrong_type(key, ", ".join(filter(None, [_shown(value), where])), kind)


def _fits(value: Any, kind: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool) or str(value).lower() in SWITCHES
    if kind in {int, float}:
        if isinstance(value, bool) or not isinstance(value, int | str | kind):
            return False
        try:
            number = kind(value)
        except (ValueError, OverflowError):
            return False
        return abs(number) <= LARGEST_INT if kind is int else math.isfinite(number)
    if kind is str:
        return isinstance(value, str | int | float) and not isinstance(value, bool) and "\0" not in str(value)
    return value is not None  # lists and the like: OmegaConf checks their elements


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= 80 else text[:80] + "..."


def wrong_type(key: str, found: str, kind: Any) -> ConfigError:
    return ConfigError(
        f"{key or 'a config value'} has the wrong type",
        found=found,
        next=f"it must be {_type_name(kind)}" if kind else "see `proj config`",
    )


def _type_name(kind: Any) -> str:
    if get_origin(kind) is not None:
        return f"{get_origin(kind).__name__} of {', '.join(a.__name__ for a in get_args(kind) if isinstance(a, type))}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def groups(configs: Path) -> dict[str, list[str]]:
    """Config groups and their choices, e.g. {"model": ["pretrained", "small"], ...}."""
    return {
        d.name: sorted(p.stem for p in d.glob("*.yaml"))
        for d in sorted(configs.iterdir())
        if d.is_dir() and d.name != "recipe"
    }


def to_dict(node: Any) -> Any:
    """A config as plain dicts, lists and numbers."""
    if is_dataclass(node):
        return {k: to_dict(v) for k, v in vars(node).items()}
    return [to_dict(v) for v in node] if isinstance(node, list | tuple) else node
