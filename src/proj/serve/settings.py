"""What the server is told: bundle ← its serve.yaml ← ./serve.yaml ← environment ← flags, each over the one before."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from proj import bundle as bundles
from proj.errors import ConfigError
from proj.serve import cgroup

UPLOADS_BYTES = 1_000_000_000  # where nobody knows how much memory is free
ENV_PREFIX = "PROJ_SERVE_"
FILE_NAME = "serve.yaml"
ALLOWED_HOST = re.compile(r"(\*\.)?([a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])(:\d{1,5})?", re.IGNORECASE)
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,*]+", re.IGNORECASE)


class Settings(BaseModel):
    """Everything the server can be told. Sizes in MB are millions of bytes; times are in seconds.

    `workers` are processes, `threads` those of each that decode and run the model, `max_batch` the inputs that one
    call of the model may answer; 0 leaves the number to what the machine and the engine are. All limits hold for the
    whole server, whatever the number of workers.

    `allow_host` are the names that a request's Host may carry beside the loopback ones ("api.example.com",
    "*.example.com", "10.0.0.5:8000"); on a bind that others can reach, none given means any. `cors` are the origins
    ("https://app.example.com") whose pages may ask. `proxies` are addresses whose X-Forwarded-For is believed.
    `keys` is a file of hashed keys (`proj keys add NAME`): with it, all but the page, the API's description and the
    probes need one.
    `rate` is requests a second for each key, or address where there is none; 0 is no limit.

    `max_upload_mb` is one request's, `uploads_mb` what all that are under way may hold together; 0 is a quarter of the
    memory that is free at the start.

    `head_s` is how long a request's head may take to come, `idle_s` how long an upload may stand still, `upload_s`
    how long it may take. `deadline_s` is how long an input may wait; a request's own X-Timeout-Ms may shorten it.
    `watch_s` is how often the server looks for newer models; 0 never. `drain_s` is how long a server told to stop
    goes on taking requests while /ready says 503, `stop_s` how long it then waits for those in flight.
    Answers less sure than `threshold` carry no label; None leaves it to each bundle. `log` is the form of lines: json
    has one for each request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, max_length=255)
    port: int = Field(8000, ge=0, le=65535)
    engine: Literal["onnxruntime", "openvino"] = "onnxruntime"
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: int = Field(0, ge=0, le=256)
    threads: int = Field(0, ge=0, le=1024)
    max_batch: int = Field(0, ge=0, le=1024)
    queue_size: int = Field(64, ge=1, le=1_000_000)
    connections: int = Field(4096, ge=1, le=1_000_000)
    max_upload_mb: float = Field(20.0, gt=0, le=10_000, allow_inf_nan=False)
    uploads_mb: float = Field(0.0, ge=0, le=1_000_000, allow_inf_nan=False)
    max_pixels: int = Field(64_000_000, ge=1, le=10**10)
    max_inputs: int = Field(64, ge=1, le=10_000)
    deadline_s: float = Field(10.0, gt=0, le=3600, allow_inf_nan=False)
    head_s: float = Field(10.0, gt=0, le=3600, allow_inf_nan=False)
    idle_s: float = Field(30.0, gt=0, le=3600, allow_inf_nan=False)
    upload_s: float = Field(120.0, gt=0, le=3600, allow_inf_nan=False)
    drain_s: float = Field(0.0, ge=0, le=3600, allow_inf_nan=False)
    stop_s: float = Field(25.0, gt=0, le=3600, allow_inf_nan=False)
    watch_s: float = Field(2.0, ge=0, le=86_400, allow_inf_nan=False)
    threshold: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    allow_host: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    keys: str = ""
    rate: float = Field(0.0, ge=0, le=1e6, allow_inf_nan=False)
    log: Literal["text", "json"] = "text"

    @property
    def uploads_bytes(self) -> int:
        """Of all uploads under way together: at least one has room; by default a quarter of the memory that is free."""
        free = cgroup.free_bytes() if not self.uploads_mb else None
        wanted = self.uploads_mb * 1_000_000 if free is None else free / 4
        return max(self.max_upload_bytes, int(wanted or UPLOADS_BYTES))

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mb * 1_000_000)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any) -> Any:
        if isinstance(value, bool):  # YAML's yes and no would pass for 1 and 0
            raise ValueError("a number or a name is needed, not yes or no")
        return value

    @field_validator("allow_host", "cors", "proxies", mode="before")
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

    @field_validator("cors")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin (such as https://app.example.com)")
        # As browsers write them: in lower case, without the scheme's own port.
        return tuple(re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", origin.lower()) for origin in value)

    @field_validator("proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError(f"{proxy!r} is not an address (such as 10.0.0.5 or 10.0.0.0/8)") from None
        return value

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
    words: Sequence[str] = (),
) -> Settings:
    """Put the settings together. `flags` are keyed by field name, None where not given; `words` are key=value.

    `bundle` is the first that is served. Beside it may lie a serve.yaml, as `--tune` writes it; `config` takes the
    place of `folder/serve.yaml` (`folder` is the working folder). Raises BundleError for a broken bundle, ConfigError
    for a key that does not exist or a value that cannot be, naming its origin.
    """
    layers = _from_bundle(bundle)
    for path in dict.fromkeys([bundle.resolve().parent / FILE_NAME, config or (folder or Path.cwd()) / FILE_NAME]):
        layers += _from_file(path, needed=path == config)
    layers += _from_environment(environ)
    layers += [(_flag(k), k, v) for k, v in flags.items() if v is not None and v != () and v != []]
    layers += [(word, *_pair(word)) for word in words]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, key, value in layers:
        _check_key(key, origin)
        values[key], origins[key] = value, origin
    try:
        return Settings.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        wrong = str(first["loc"][0]) if first["loc"] else "queue_size"
        key = wrong if wrong in origins or first["loc"] else "max_inputs"  # of the two, the one that somebody chose
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{origins.get(key, key)} is {values.get(key)!r}",
            found=reason,
            next="`proj serve --help` lists the settings",
        ) from None


def bundle_named(environ: Mapping[str, str] = os.environ) -> str | None:
    """The RUN that the environment names (MODEL), for a container that gets its model as a volume."""
    return environ.get("MODEL") or None


def _from_bundle(bundle: Path) -> list[tuple[str, str, Any]]:
    """What somebody chose for this model. The threshold is each bundle's own, where nothing else is said."""
    said, usual = bundles.read(bundle).serve, bundles.ServeSettings()
    chosen = [(k, v) for k, v in said if v != getattr(usual, k) and k != "threshold"]
    return [(f"serve.{k} in {bundle}/bundle.json", k, v) for k, v in chosen]


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key.strip().replace("-", "_"), value.strip()


def _from_file(path: Path, *, needed: bool) -> list[tuple[str, str, Any]]:
    if not needed and not path.is_file():
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
    # Cloud Run, and others like it, set PORT. Not HOST: some shells keep the machine's own name there.
    layers = [("PORT", "port", environ["PORT"])] if environ.get("PORT") else []
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
