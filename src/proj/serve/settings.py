"""What the server is told: bundle ← serve.yaml ← environment ← flags, each over the one before."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from proj import bundle as bundles
from proj.errors import ConfigError

ENV_PREFIX = "PROJ_SERVE_"
FILE_NAME = "serve.yaml"
ALLOWED_HOST = re.compile(r"(\*\.)?([a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])(:\d{1,5})?", re.IGNORECASE)


class Settings(BaseModel):
    """Everything the server can be told. Sizes in MB are millions of bytes; times are in seconds.

    `threads` is per worker, 0 shares the cores out. `allow_host` are the names that a request's Host may
    carry beside the loopback ones ("api.example.com", "*.example.com", "10.0.0.5:8000"); on a bind that
    others can reach, none given means any. `drain_s` is how long a server told to stop goes on taking
    requests while /ready says 503, `stop_s` how long it then waits for those in flight. `idle_s` is how long
    an upload may stand still. Answers less sure than `threshold` carry no label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, max_length=255)
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=256)
    threads: int = Field(0, ge=0, le=1024)
    allow_host: tuple[str, ...] = ()
    max_upload_mb: float = Field(20.0, gt=0, le=10_000, allow_inf_nan=False)
    max_pixels: int = Field(64_000_000, ge=1, le=10**10)
    max_inputs: int = Field(64, ge=1, le=10_000)
    queue_size: int = Field(256, ge=1, le=1_000_000)
    max_batch: int = Field(8, ge=1, le=1024)
    threshold: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    drain_s: float = Field(0.0, ge=0, le=3600, allow_inf_nan=False)
    stop_s: float = Field(25.0, gt=0, le=3600, allow_inf_nan=False)
    idle_s: float = Field(30.0, gt=0, le=3600, allow_inf_nan=False)

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mb * 1_000_000)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any) -> Any:
        if isinstance(value, bool):  # YAML's yes and no would pass for 1 and 0
            raise ValueError("a number or a name is needed, not yes or no")
        return value

    @field_validator("allow_host", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("allow_host")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not ALLOWED_HOST.fullmatch(name):
                raise ValueError(f"{name!r} is not a host name (such as api.example.com or *.example.com)")
        return tuple(name.lower() for name in value)

    @model_validator(mode="after")
    def _room(self) -> Settings:
        if self.queue_size < self.max_inputs:
            raise ValueError(
                f"queue_size {self.queue_size} must hold one request's inputs, max_inputs {self.max_inputs}"
            )
        return self


def build(
    bundle: Path,
    flags: Mapping[str, Any],
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """Put the settings together. `flags` are keyed by field name, None where not given.

    `config` takes the place of `folder/serve.yaml` (`folder` is the working folder). Raises BundleError for a
    broken bundle, ConfigError for a key that does not exist or a value that cannot be, naming its origin.
    """
    layers = [(f"serve.{k} in {bundle}/bundle.json", k, v) for k, v in bundles.read(bundle).serve]
    layers += _from_file(config, folder or Path.cwd())
    layers += _from_environment(environ)
    layers += [(_flag(k), k, v) for k, v in flags.items() if v is not None and v != () and v != []]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, key, value in layers:
        _check_key(key, origin)
        values[key], origins[key] = value, origin
    try:
        return Settings.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "queue_size"
        origin = origins.get(key) or origins.get("max_inputs", "the server's settings")
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{origin} is {values.get(key)!r}", found=reason, next="`proj serve --help` lists the settings"
        ) from None


def bundle_named(environ: Mapping[str, str] = os.environ) -> str | None:
    """The RUN that the environment names (MODEL), for a container that gets its model as a volume."""
    return environ.get("MODEL") or None


def _from_file(config: Path | None, folder: Path) -> list[tuple[str, str, Any]]:
    path = config or folder / FILE_NAME
    if config is None and not path.is_file():
        return []
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(
            f"{path} cannot be read", found=e.strerror or str(e), next="name a file: --config FILE"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not YAML", found=" ".join(str(e).split()), next="mend the file") from None
    if raw is None:
        return []
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} holds no settings", found=type(raw).__name__, next="write lines such as `port: 8000`"
        )
    return [(f"{key} in {path}", str(key), value) for key, value in raw.items()]


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, str, Any]]:
    layers = [(name, name.lower(), environ[name]) for name in ("HOST", "PORT") if environ.get(name)]
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and value and not _from_kubernetes(name, value):
            layers.append((name, name.removeprefix(ENV_PREFIX).lower(), value))
    return layers


def _from_kubernetes(name: str, value: str) -> bool:
    # A Kubernetes service called "proj-serve" puts PROJ_SERVE_PORT=tcp://10.0.0.1:80 and more into each pod.
    rest = name.removeprefix(ENV_PREFIX)
    return rest.startswith(("SERVICE_", "PORT_")) or (rest == "PORT" and "://" in value)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _check_key(key: str, origin: str) -> None:
    known = list(Settings.model_fields)
    if key not in known:
        close = get_close_matches(key, known, n=1)
        raise ConfigError(
            f"{origin}: no such setting",
            found=f"the settings are {', '.join(known)}",
            next=f"did you mean {close[0]}?" if close else "`proj serve --help` lists the settings",
        )
