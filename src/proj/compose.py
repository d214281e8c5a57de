"""YAML files and words of the command line to a checked `Config`. Only this file knows Hydra and OmegaConf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

from proj.config import Config, groups, keys
from proj.errors import ConfigError, UsageError
from proj.task import Options


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
        raise ConfigError(f"{configs} has no config.yaml", next="see the configs/ folder of proj for its form")
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
        raise ConfigError("the config cannot be composed", found=_first_line(e), next="see `proj config`") from None
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

    groups_named = [o for o in overrides if _key(o) in {"task", "model", "trainer", "track", "serve", "experiment"}]
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
            raise ConfigError(f"{text!r} names several values", next="one value a run; quote a list: 'key=[a,b]'")
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


def _origins(options: type[Options], configs: Path, choices: dict[str, str | None], typed: list[str]) -> dict[str, str]:
    """Later layers win, in the order of config.yaml's defaults list."""
    import yaml

    origins = dict.fromkeys(keys(options), "default")
    top = yaml.safe_load((configs / "config.yaml").read_text(encoding="utf-8"))
    names = [next(iter(e)) for e in top.get("defaults", []) if isinstance(e, dict)]
    layers: list[tuple[str | None, str]] = [(None, "config.yaml")]
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
