"""YAML files and words of the command line to a checked `Config`. Only this file knows Hydra and OmegaConf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from proj.config import Config, check_value, groups, keys, wrong_type
from proj.errors import ConfigError, UsageError
from proj.task import Options

OptionsOf = Callable[[str], type[Options]]
RUN_KEEPS = ("task", "model", "trainer", "track", "serve", "experiment")  # groups that a made run cannot change


@dataclass(frozen=True)
class Composed:
    config: Config
    overrides: tuple[str, ...]
    origins: dict[str, str]  # leaf key → "default", a file under configs/, or "command line"


@dataclass(frozen=True)
class _Layer:
    """One YAML file that takes part; later layers win. `origin` is its short name, `content` is at the root."""

    path: Path
    origin: str
    content: dict[str, Any]


def compose(overrides: list[str], configs: Path, options_of: OptionsOf) -> Composed:
    """Compose `configs/config.yaml` with the overrides (Hydra's grammar) and check every key and value.

    `options_of` gives the Options class of a task by its name. Raises ConfigError with the closest valid key.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    if not (configs / "config.yaml").is_file():
        raise ConfigError(f"{configs} has no config.yaml", next="see the configs/ folder of proj for its form")
    chosen, values = _sort_overrides(overrides, configs)
    GlobalHydra.instance().clear()
    with _in_our_words(configs), initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        layers = _layers(configs, chosen)
        options = _options(layers, configs, options_of)
        known = keys(options)
        origins = _origins(layers, known)
        _check_values(values, known, tuple(groups(configs)))
        # Hydra's own compose would find and read every file a second time: half of what `proj config` takes.
        cfg = OmegaConf.merge(*(layer.content for layer in layers))
        _apply(values, cfg, origins, options)
        return Composed(_config(cfg, options, origins, configs.parent), tuple(overrides), origins)


def load(path: Path, overrides: list[str], options_of: OptionsOf) -> Composed:
    """A run's config.yaml with some values changed. Raises ConfigError when it is missing or does not fit."""
    from omegaconf import OmegaConf

    for text in overrides:
        if _key(text) in RUN_KEEPS:
            raise ConfigError(f"{text} cannot change a run that is made", next="single values can: data.source=PATH")
    if not path.is_file():
        raise ConfigError(f"{path} is not a run's config", found="no such file", next="train again: `proj train`")
    with _in_our_words(path):
        layer = _Layer(path, str(path), _read(path))
        options = _options([layer], path, options_of)
        known = keys(options)
        origins = _origins([layer], known)
        cfg = OmegaConf.create(layer.content)
        _check_values(overrides, known)
        _apply(overrides, cfg, origins, options)
        return Composed(_config(cfg, options, origins, path.parent), tuple(overrides), origins)


@contextmanager
def _in_our_words(configs: Path) -> Iterator[None]:
    """What Hydra, OmegaConf and YAML complain of, as a ConfigError that names the file where one is to blame."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except MissingConfigException as e:
        raise ConfigError(
            f"a config that {configs} names is not there", found=_one_line(e).split(" Config search path")[0]
        ) from None
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, AttributeError) as e:
        _blame(configs)
        raise ConfigError("the config cannot be composed", found=_one_line(e), next="see `proj config`") from None
    except RecursionError:
        _blame(configs)
        raise ConfigError(f"a file under {configs} names itself in its defaults, or nests too deep") from None


def _blame(configs: Path) -> None:
    """Raise for the first file that cannot be read by itself: Hydra often does not say which one it was."""
    for path in sorted(configs.rglob("*.yaml")) if configs.is_dir() else [configs]:
        _read(path)


def _read(path: Path) -> dict[str, Any]:
    """One YAML file as plain dicts and lists. Raises ConfigError that names it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except OSError as e:
        raise ConfigError(f"{path} cannot be read", found=e.strerror or str(e)) from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8", found=_one_line(e), next="save it as UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path} nests too deep", next="mend the file") from None
    except (YAMLError, OmegaConfBaseException, ValueError) as e:
        raise ConfigError(f"{path} is not a config's YAML", found=_one_line(e), next="mend the file") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a list", next="write lines such as `seed: 1`")
    if not content:
        raise ConfigError(f"{path} sets nothing", next="write lines such as `seed: 1`, or remove it")
    return {str(k): v for k, v in content.items()}


def _layers(configs: Path, chosen: list[str]) -> list[_Layer]:
    """The files that Hydra will merge, in its order (config.yaml's defaults list), each put where its package is."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    layers = []
    for entry in loader.compute_defaults_list("config", chosen, RunMode.RUN).defaults:
        name, package = entry.config_path, entry.package or ""
        if name is None or package.split(".")[0] == "hydra":
            continue
        path = configs / f"{name}.yaml"
        content: dict[str, Any] = {k: v for k, v in _read(path).items() if k != "defaults"}
        for part in reversed(package.split(".") if package else []):
            content = {part: content}
        layers.append(_Layer(path, f"configs/{name}.yaml", content))
    return layers


def _options(layers: list[_Layer], configs: Path, options_of: OptionsOf) -> type[Options]:
    """The Options of the task that the last layer names."""
    named = [(n["name"], layer) for layer in layers if isinstance(n := layer.content.get("task"), dict) and "name" in n]
    if not named:
        raise ConfigError(f"{configs} names no task", next="a file in configs/task sets task.name")
    name, layer = named[-1]
    try:
        return options_of(str(name))
    except UsageError as e:
        raise ConfigError(e.what, found=f"in {layer.path}; {e.found}", next=e.next) from None


def _origins(layers: list[_Layer], known: dict[str, Any]) -> dict[str, str]:
    """Where each leaf's value comes from. Every layer is checked, also the values that a later one hides."""
    origins = dict.fromkeys(known, "default")
    for layer in layers:
        for key, value in _leaves(layer.content, "", known):
            if key not in known:
                raise _unknown_key(key, list(known), f"in {layer.path}")
            check_value(key, value, known[key], f"in {layer.path}")
            origins[key] = layer.origin
    return origins


def _leaves(node: Any, key: str, known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and key not in known:
        for k, v in node.items():
            yield from _leaves(v, f"{key}.{k}" if key else str(k), known)
    else:
        yield key, node


def _config(cfg: Any, options: type[Options], origins: dict[str, str], root: Path) -> Config:
    """The merged values as dataclasses, checked against types and ranges."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = keys(options)
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as e:  # a reference that leads nowhere, or round in a circle
        key = str(getattr(e, "full_key", "") or "")
        raise ConfigError(f"{key or 'a config value'} has no value", found=_from(e, origins.get(key), root)) from None
    for key, value in _leaves(plain, "", known):
        check_value(key, value, known[key], _from("", origins[key], root))
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_schema(options), plain))
    except OmegaConfBaseException as e:
        key = str(getattr(e, "full_key", "") or "")
        raise wrong_type(key, _from(e, origins.get(key), root), known.get(key)) from None
    except ConfigError as e:  # out of range: the classes themselves say so
        origin = origins.get(e.what.split(" ")[0], "default")
        raise ConfigError(e.what, found=_from(e.found, origin, root), next=e.next) from None
    assert isinstance(config, Config)
    return config


def _schema(options: type[Options]) -> Any:
    """Every key with its type and its default."""
    from omegaconf import OmegaConf

    schema = OmegaConf.structured(Config)
    schema.task = OmegaConf.structured(options)
    return schema


def _from(found: object, origin: str | None, root: Path) -> str:
    """What was found, and in which file."""
    text = _one_line(found)
    if not origin or origin in {"default", "command line"}:
        return text
    return f"{text}, in {root / origin}" if text else f"in {root / origin}"


def _sort_overrides(overrides: list[str], configs: Path) -> tuple[list[str], list[str]]:
    """Group choices (the last of a group counts) and values apart; refuses what is neither."""
    chosen: dict[str, str] = {}
    values = []
    known = groups(configs)
    for text in overrides:
        if text.startswith("-"):
            raise UsageError(f"no such option: {text}", next="overrides have the form key=value")
        key, equals, choice = text.lstrip("+~").partition("=")
        if not equals and (not text.startswith("~") or not key):
            raise ConfigError(
                f"{text!r} is not an override",
                found="overrides have the form key=value",
                next="`proj config` lists the keys",
            )
        if key not in known:
            values.append(text)
        elif key == "experiment" and (choice == "null" or text.startswith("~")):
            chosen.pop(key, None)
        elif text.startswith("~"):
            raise ConfigError(f"{text}: a config group cannot be left out", next=f"choose one: {key}=NAME")
        else:
            _check_choice(key, choice, known[key], configs)
            chosen[key] = choice
    return [f"{key}={choice}" for key, choice in chosen.items()], values


def _check_choice(key: str, choice: str, known: list[str], configs: Path) -> None:
    if choice not in known:
        close = get_close_matches(choice, known, n=1)
        raise ConfigError(
            f"no {key} is called {choice!r}",
            found=f"there are {', '.join(known) or 'none'}",
            next=f"did you mean {key}={close[0]}?" if close else f"add one: {configs / key / 'NAME.yaml'}",
        )


def _check_values(values: list[str], known: dict[str, Any], groups: tuple[str, ...] = ()) -> None:
    """Refuse what names no key, several values, or a value that its key cannot have."""
    for text in values:
        key = _key(text)
        override = _parsed(text)
        if key == "task.name":
            raise ConfigError("task.name is set by the choice of a task", next="choose one: task=NAME")
        if key not in known:
            raise _unknown_key(key, list(known), "", groups)
        if override.is_sweep_override():
            raise ConfigError(f"{text!r} names several values", next="one value a run; quote a list: 'key=[a,b]'")
        if not override.is_delete():
            check_value(key, override.value(), known[key], "")


def _apply(values: list[str], cfg: Any, origins: dict[str, str], options: type[Options]) -> None:
    """Set each value, and take out what `~key` names: it has its default again. A key that no YAML has is one too."""
    from omegaconf import OmegaConf

    for text in values:
        override, key = _parsed(text), _key(text)
        if not override.is_delete():
            OmegaConf.update(cfg, key, override.value(), force_add=True)
            origins[key] = "command line"
            continue
        given = override.value()
        if given not in (None, ""):  # without one nobody asks what it is: it may be a reference that leads nowhere
            now, source = OmegaConf.select(cfg, key), ""
            if now is None:
                now, source = OmegaConf.select(_schema(options), key), ", its default"
            if given != now:
                found = f"{key} is {now}{source}, not {given}"
                raise ConfigError(f"{text} names another value", found=found, next=f"write ~{key}")
        OmegaConf.update(cfg, key, None, force_add=True)
        parent, _, leaf = key.rpartition(".")
        del (OmegaConf.select(cfg, parent) if parent else cfg)[leaf]
        origins[key] = "default"


def _parsed(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        return parser.parse_override(text)
    except HydraException as e:
        key, _, value = text.partition("=")
        inner, outer = ("'", '"') if '"' in value else ('"', "'")
        quoted = f"{key}={inner}{value}{inner}"
        try:
            parser.parse_override(quoted)
            advice = f"quote the value: {outer}{quoted}{outer}"
        except HydraException:
            advice = "write key=value"
        raise ConfigError(f"{text!r} is not an override in Hydra's grammar", found=_one_line(e), next=advice) from None


def _key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]


def _unknown_key(key: str, known: list[str], where: str, groups: tuple[str, ...] = ()) -> ConfigError:
    inside = [k for k in known if k.startswith(key + ".")]
    if key.split(".")[0] in {"experiment", "recipe"} and where:
        return ConfigError(f"no config key is called {key!r}", found=where, next="open it with `# @package _global_`")
    if inside:
        return ConfigError(
            f"{key} is a group of keys",
            found=", ".join([f"it holds {', '.join(inside)}", *([where] if where else [])]),
            next=f"set one: {inside[0]}=...",
        )
    close = get_close_matches(key, [*known, *groups], n=1, cutoff=0.5)
    close = close or [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    mark = "=" if close and close[0] not in known else ""
    return ConfigError(
        f"no config key is called {key!r}",
        found=where,
        next=f"did you mean {close[0]}{mark}?" if close else "`proj config` lists the keys",
    )


def _one_line(found: object) -> str:
    """Of OmegaConf's messages only the first line is for a user: the others name its own classes."""
    lines = str(found).strip().splitlines()
    keep = [line.strip() for line in lines if not line.strip().startswith(("full_key:", "object_type=", "reference_"))]
    return " ".join(keep)[:400] or (type(found).__name__ if isinstance(found, Exception) else "")
