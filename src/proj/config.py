"""The configuration: typed, composed by Hydra from `configs/`, checked before anything else happens.

Only this file knows Hydra and OmegaConf. Numbers live in `configs/*.yaml`; what they mean lives here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from proj.errors import ConfigError, UsageError
from proj.task import Options


def _require(ok: bool, key: str, found: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(
            f"{key} is out of range", found=f"{found!r}; it must be {wanted}", next="see `proj config`"
        )


@dataclass(kw_only=True)
class Data:
    """Where data come from and how they are split. Shares are of groups, 0..1."""

    source: str = (
        "default"  # default | sample | a path | an archive | https:// | gs:// | hf://datasets/OWNER/NAME
    )
    sha256: str = ""  # of the downloaded file; checked when set
    split: str = (
        "hash"  # hash: by hash(split_seed, group) | tail: the last rows of the source are the test split
    )
    split_seed: int = 0
    val_share: float = 0.15
    test_share: float = 0.15
    max_broken_share: float = 0.01  # prepare stops when more of the files than this cannot be read
    workers: int = 0  # processes that decode; 0: one a core
    timeout_s: float = 20.0  # to reach a host

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
        _require(
            0 <= self.max_broken_share <= 1, "data.max_broken_share", self.max_broken_share, "from 0 to 1"
        )
        _require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        _require(self.timeout_s > 0, "data.timeout_s", self.timeout_s, "over 0")
        _require(
            not self.sha256 or len(self.sha256) == 64, "data.sha256", self.sha256, "64 hexadecimal digits"
        )


@dataclass(kw_only=True)
class Augment:
    """Random changes to a training batch; 0 or false switches each off. Angles in degrees, the rest in shares."""

    flip: bool = False  # left to right
    rotate_deg: float = 0.0
    shift: float = 0.0  # of the width and height
    scale: float = 0.0  # 0.1: from 0.9 to 1.1 times
    brightness: float = 0.0
    contrast: float = 0.0
    mixup: float = 0.0  # alpha of the Beta distribution (Zhang et al. 2018)

    def __post_init__(self) -> None:
        _require(0 <= self.rotate_deg <= 180, "augment.rotate_deg", self.rotate_deg, "from 0 to 180")
        for key in ("shift", "scale", "brightness", "contrast"):
            _require(0 <= getattr(self, key) < 1, f"augment.{key}", getattr(self, key), "from 0 to under 1")
        _require(self.mixup >= 0, "augment.mixup", self.mixup, "0 or more")


@dataclass(kw_only=True)
class Model:
    """A timm backbone, a new head, and how they learn."""

    backbone: str = "resnet10t"  # any name of timm.list_models()
    pretrained: bool = False  # weights from the hub
    weights: str = ""  # a local .safetensors / .pt file in the hub's place
    freeze: bool = False  # the backbone runs once over the data, only the head learns
    cache: bool = True  # with freeze: features are computed once and kept; false: anew for every batch
    feature_views: int = (
        1  # with freeze and cache: so many views of each row are cached, all but the first augmented
    )
    input_size_px: int = 0  # the longer side of what the backbone sees; 0: the prepared size
    pool: str = "avg"  # avg | max | avgmax | catavgmax
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
        _require(self.lr > 0, "model.lr", self.lr, "over 0")
        _require(self.weight_decay >= 0, "model.weight_decay", self.weight_decay, "0 or more")
        _require(self.feature_views >= 1, "model.feature_views", self.feature_views, "1 or more")
        _require(self.input_size_px >= 0, "model.input_size_px", self.input_size_px, "0 or more")
        for key in ("drop_rate", "drop_path_rate", "warmup_share", "label_smoothing", "ema_decay"):
            _require(0 <= getattr(self, key) < 1, f"model.{key}", getattr(self, key), "from 0 to under 1")


@dataclass(kw_only=True)
class Trainer:
    max_epochs: int = 30
    batch_size: int = 64
    patience: int = 0  # epochs without a better validation loss before it stops; 0: never early
    folds: int = 0  # 5: cross-validation by group instead of one split
    precision: str = "auto"  # auto | 32 | bf16
    device: str = "auto"  # auto | cpu | cuda | mps
    grad_clip: float = 1.0  # norm of the gradient; 0: none
    deterministic: bool = True

    def __post_init__(self) -> None:
        _require(self.max_epochs >= 1, "trainer.max_epochs", self.max_epochs, "1 or more")
        _require(self.batch_size >= 1, "trainer.batch_size", self.batch_size, "1 or more")
        _require(self.patience >= 0, "trainer.patience", self.patience, "0 or more")
        _require(
            self.folds == 0 or 2 <= self.folds <= 100, "trainer.folds", self.folds, "0, or from 2 to 100"
        )
        _require(
            self.precision in {"auto", "32", "bf16"}, "trainer.precision", self.precision, "auto, 32 or bf16"
        )
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
        _require(
            self.kind in {"csv", "tensorboard", "wandb"}, "track.kind", self.kind, "csv, tensorboard or wandb"
        )


@dataclass(kw_only=True)
class Serve:
    """Written into the bundle at export; `proj serve` never reads Hydra."""

    max_upload_mb: float = 20.0
    max_pixels: int = 64_000_000
    max_inputs: int = 64
    queue_size: int = 256
    max_batch: int = 8

    def __post_init__(self) -> None:
        for f in fields(self):
            _require(getattr(self, f.name) > 0, f"serve.{f.name}", getattr(self, f.name), "over 0")


@dataclass(kw_only=True)
class Config:
    seed: int = 0
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    trainer: Trainer = field(default_factory=Trainer)
    track: Track = field(default_factory=Track)
    serve: Serve = field(default_factory=Serve)
    task: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 4294967295")


# ---------------------------------------------------------------- the project


@dataclass(frozen=True)
class Project:
    """Where a project's parts are. `found` says how the root was found, for `proj config` and `proj doctor`."""

    root: Path
    configs: Path
    found: str

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def models(self) -> Path:
        return self.root / "models"


def find_project(directory: Path | None = None) -> Project:
    """The nearest folder upwards whose pyproject.toml has [tool.proj]; else the working folder with the packaged configs."""
    start = (directory or Path.cwd()).resolve()
    if directory is not None and not start.is_dir():
        raise UsageError(f"--project {directory} is not a folder")
    for folder in (start, *start.parents) if directory is None else (start,):
        if _is_project(folder / "pyproject.toml") and (folder / "configs").is_dir():
            return Project(folder, folder / "configs", f"{folder / 'pyproject.toml'} has [tool.proj]")
    if directory is not None and _is_project(start / "pyproject.toml"):
        raise UsageError(f"{start} has [tool.proj] but no configs/ folder")
    return Project(start, _packaged_configs(), "no pyproject.toml with [tool.proj] above the working folder")


def _is_project(path: Path) -> bool:
    try:
        return "proj" in tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError):
        return False


def _packaged_configs() -> Path:
    """In a wheel the configs lie inside the package; in an editable install they are the checkout's own."""
    inside = Path(__file__).parent / "configs"
    checkout = Path(__file__).parents[2] / "configs"
    return inside if inside.is_dir() else checkout


# ---------------------------------------------------------------- keys and choices


def keys(options: type[Options], root: type[Any] = Config, prefix: str = "") -> dict[str, Any]:
    """Every leaf key and its type, e.g. {"model.lr": float, ...}."""
    found: dict[str, Any] = {}
    hints = get_type_hints(root)
    for f in fields(root):
        kind = options if hints[f.name] is Options else hints[f.name]
        if is_dataclass(kind):
            found |= keys(options, kind, f"{prefix}{f.name}.")  # type: ignore[arg-type]
        else:
            found[prefix + f.name] = kind
    return found


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


# ---------------------------------------------------------------- composition


@dataclass(frozen=True)
class Composed:
    config: Config
    overrides: tuple[str, ...]
    origins: dict[str, str]  # leaf key → "default", a file under configs/, or "command line"


def compose(overrides: list[str], configs: Path, options_of: Callable[[str], type[Options]]) -> Composed:
    """Compose `configs/config.yaml` with the overrides (Hydra's grammar) and check every key and value.

    `options_of` gives the Options class of a task by its name. Raises ConfigError with the closest valid key.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not (configs / "config.yaml").is_file():
        raise ConfigError(
            f"{configs} has no config.yaml", next="see the configs/ folder of proj for its form"
        )
    chosen, values = _sort_overrides(overrides, configs)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
            base = hydra_compose("config", overrides=chosen, return_hydra_config=True)
            choices = dict(base.hydra.runtime.choices)
            options = options_of(str(base.task.name))
            cfg = hydra_compose("config", overrides=chosen + _checked(values, options))
        schema = OmegaConf.structured(Config)
        schema.task = OmegaConf.structured(options)
        merged = OmegaConf.merge(schema, cfg)
        config = OmegaConf.to_object(merged)
    except HydraException as e:
        raise ConfigError(
            "the config cannot be composed", found=_first_line(e), next="see `proj config`"
        ) from None
    except OmegaConfBaseException as e:
        raise _wrong(e, options_of(str(base.task.name)) if "base" in locals() else Options) from None
    except (OSError, ValueError) as e:  # a YAML file that is not UTF-8, not YAML or not readable
        raise ConfigError(f"a file under {configs} cannot be read", found=_first_line(e)) from None
    except Exception as e:
        if type(e).__module__.startswith("yaml"):
            raise ConfigError(f"a file under {configs} is not YAML", found=" ".join(str(e).split())) from None
        raise
    assert isinstance(config, Config)
    return Composed(config, tuple(overrides), _origins(options, configs, choices, [_key(v) for v in values]))


def load(path: Path, overrides: list[str], options_of: Callable[[str], type[Options]]) -> Composed:
    """A run's config.yaml with some values changed. Raises ConfigError when it is missing or does not fit."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups_named = [
        o for o in overrides if _key(o) in {"task", "model", "trainer", "track", "serve", "experiment"}
    ]
    if groups_named:
        raise ConfigError(
            f"{groups_named[0]} cannot change a run that is made", next="single values can: data.source=PATH"
        )
    options = Options
    try:
        cfg = OmegaConf.load(path)
        options = options_of(str(cfg.task.name))
        changed = OmegaConf.from_dotlist([o.lstrip("+") for o in _checked(overrides, options)])
        schema = OmegaConf.structured(Config)
        schema.task = OmegaConf.structured(options)
        config = OmegaConf.to_object(OmegaConf.merge(schema, cfg, changed))
    except OmegaConfBaseException as e:
        raise _wrong(e, options) from None
    except (OSError, ValueError, AttributeError) as e:
        raise ConfigError(
            f"{path} is not a run's config", found=_first_line(e), next="train again: `proj train`"
        ) from None
    assert isinstance(config, Config)
    origins = dict.fromkeys(keys(options), str(path)) | {_key(o): "command line" for o in overrides}
    return Composed(config, tuple(overrides), origins)


def _sort_overrides(overrides: list[str], configs: Path) -> tuple[list[str], list[str]]:
    """Group choices and values apart; refuses what is neither."""
    chosen, values = [], []
    known = groups(configs)
    for text in overrides:
        if text.startswith("-"):
            raise UsageError(f"no such option: {text}", next="overrides have the form key=value")
        if "=" not in text and not text.startswith("~"):
            raise ConfigError(
                f"{text!r} is not an override",
                found="overrides have the form key=value",
                next="`proj config` lists the keys",
            )
        key = _key(text)
        if key not in known:
            values.append(text)
            continue
        choice = text.partition("=")[2]
        if choice not in known[key] and not (choice == "null" and key == "experiment"):
            close = get_close_matches(choice, known[key], n=1)
            raise ConfigError(
                f"no {key} is called {choice!r}",
                found=f"there are {', '.join(known[key])}",
                next=f"did you mean {key}={close[0]}?" if close else f"add one: {configs / key}/NAME.yaml",
            )
        chosen.append(f"{key}={choice}")
    return chosen, values


def _checked(values: list[str], options: type[Options]) -> list[str]:
    """Values with known keys, as Hydra's forced form: a key that no YAML mentions is still a key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    known = list(keys(options))
    checked = []
    for text in values:
        try:
            override = OverridesParser.create().parse_override(text)
        except OverrideParseException as e:
            raise ConfigError(f"{text!r} is not an override", found=_first_line(e)) from None
        if override.is_sweep_override():
            raise ConfigError(
                f"{text!r} names several values", next="one value a run; quote a list: 'key=[a,b]'"
            )
        key = _key(text)
        if key not in known:
            raise _unknown_key(key, known)
        checked.append(text if text.startswith("~") else "++" + text.lstrip("+"))
    return checked


def _key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]


def _unknown_key(key: str, known: list[str]) -> ConfigError:
    inside = [k for k in known if k.startswith(key + ".")]
    if inside:
        return ConfigError(
            f"{key} is a group of keys",
            found=f"it holds {', '.join(inside)}",
            next=f"set one: {inside[0]}=...",
        )
    close = get_close_matches(key, known, n=1, cutoff=0.5)
    close = close or [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    return ConfigError(
        f"no config key is called {key!r}",
        next=f"did you mean {close[0]}?" if close else "`proj config` lists the keys",
    )


def _wrong(error: Exception, options: type[Options]) -> ConfigError:
    """OmegaConf's complaint in our words."""
    key = str(getattr(error, "full_key", "") or "")
    known = keys(options)
    if type(error).__name__ in {"ConfigKeyError", "ConfigAttributeError"}:
        return _unknown_key(key, list(known))
    kind = _type_name(known[key]) if key in known else ""
    return ConfigError(
        f"{key or 'a config value'} has the wrong type",
        found=_first_line(error),
        next=f"it must be {kind}" if kind else "see `proj config`",
    )


def _type_name(kind: Any) -> str:
    if get_origin(kind) is not None:
        return f"{get_origin(kind).__name__} of {', '.join(a.__name__ for a in get_args(kind) if isinstance(a, type))}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# ---------------------------------------------------------------- where each value came from


def _origins(
    options: type[Options], configs: Path, choices: dict[str, str | None], typed: list[str]
) -> dict[str, str]:
    """Later layers win, in the order of config.yaml's defaults list."""
    import yaml

    origins = dict.fromkeys(keys(options), "default")
    top = yaml.safe_load((configs / "config.yaml").read_text(encoding="utf-8"))
    names = [next(iter(e)) for e in top.get("defaults", []) if isinstance(e, dict)]
    layers = [(None, "config.yaml")]
    layers += [(n.split()[-1], f"{n.split()[-1]}/{choices.get(n.split()[-1])}.yaml") for n in names]
    for group, file in layers:
        path = configs / file
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
        at_root = group is None or "@package _global_" in text
        for leaf in _leaves(content, "" if at_root else f"{group}."):
            if leaf in origins:
                origins[leaf] = f"configs/{file}"
    for key in typed:
        if key in origins:
            origins[key] = "command line"
    return origins


def _leaves(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix.rstrip(".")]
    return [leaf for k, v in node.items() if k != "defaults" for leaf in _leaves(v, f"{prefix}{k}.")]
