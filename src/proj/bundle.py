"""A model bundle: a folder with `model.onnx` and `bundle.json` that says all that serving it needs.

    bundle/
      model.onnx      "x" → float32 (B, classes or targets), named "y"; enlarging, normalisation, temperature and
                      softmax (or the way back to units) are inside the graph; B is free. "x" is, by modality,
                      uint8 (B, H, W, C) or (B, views, H, W, C); int32 (B, ids), 0 for nothing;
                      float32 (B, steps, channels)
      bundle.json     `Manifest`, below; written last
      tokenizer.json  where a text's ids are made by a tokenizer

Nothing in a bundle can run code: external data, custom operators and functions are refused before the graph is loaded.
"""

from __future__ import annotations

import base64
import json
import os
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from proj.errors import BundleError
from proj.preprocess import spec as specs
from proj.preprocess.spec import Modality, Spec, TextSpec

SCHEMA = 3  # 1 knew pictures only, 2 no hashes of files
HASHED_SINCE = 3
DTYPES: dict[Modality, Literal["uint8", "int32", "float32"]] = {
    "image": "uint8",
    "text": "int32",
    "series": "float32",
}
MAX_MANIFEST_BYTES = 16 * 2**20
GRAPH, TOKENIZER = "model.onnx", "tokenizer.json"


def oldest_readable(schema: int) -> int:
    """The two versions before a reader's own are read too."""
    return max(1, schema - 2)


OLDEST_READABLE = oldest_readable(SCHEMA)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Example(_Strict):
    """One input as the graph takes it, and its answer: a bundle proves itself on it when it is loaded."""

    x_base64: str
    shape: tuple[int, ...]
    dtype: Literal["uint8", "int32", "float32"] = "uint8"
    y: tuple[float, ...]

    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """A batch of one: (1, *shape)."""
        raw = np.frombuffer(base64.b64decode(self.x_base64, validate=True), np.dtype(self.dtype).newbyteorder("<"))
        return raw.astype(self.dtype).reshape(1, *self.shape)


class Sample(_Strict):
    """An input to click on the page. `body` is what `POST /predict` takes as JSON."""

    name: str
    body: dict[str, Any]


class ServeSettings(_Strict):
    """What `serve.*` said at export; `serve.yaml`, flags and the environment override it (see serve/settings)."""

    max_upload_mb: float = 20.0
    max_pixels: int = 64_000_000
    max_inputs: int = 64
    queue_size: int = 64
    max_batch: int = 0
    threshold: float = Field(default=0.0, ge=0, le=1)


class Manifest(_Strict):
    """The content of bundle.json. `name` is the task's, `version` the run's; answers carry "name@version".

    `files` has the SHA-256 of each other file in the bundle, in hexadecimal; `write` fills it in.
    """

    schema_version: int = SCHEMA
    name: str
    version: str
    title: str
    question: str
    modality: Modality
    kind: Literal["classes", "values"]
    page_input: Literal["photo", "sketch"] = "photo"
    names: tuple[str, ...] = Field(min_length=1)
    units: tuple[str, ...] = ()
    preprocess: dict[str, Any]
    data_hash: str
    metrics: dict[str, float]
    split: str = "test"
    backbone: str
    created: str
    synthetic: bool = False
    fast: bool = False
    example: Example
    samples: tuple[Sample, ...] = ()
    serve: ServeSettings = ServeSettings()
    files: dict[Literal["model.onnx", "tokenizer.json"], Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = {}

    @property
    def model(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def warning(self) -> str | None:
        """What every answer must say of a model that learned nothing worth having."""
        why = [w for w, is_so in (("synthetic data", self.synthetic), ("one batch (--fast)", self.fast)) if is_so]
        return f"trained on {' and '.join(why)}: answers mean nothing" if why else None

    @property
    def spec(self) -> Spec:
        return specs.read(self.modality, self.preprocess)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if len(self.example.y) != len(self.names):
            raise ValueError(f"the example's answer has {len(self.example.y)} numbers for {len(self.names)} names")
        if self.kind == "values" and len(self.units) != len(self.names):
            raise ValueError(f"{len(self.units)} units for {len(self.names)} targets")
        if len(set(self.names)) < len(self.names):
            raise ValueError("names has a name twice")
        try:
            self._example_fits(self.spec)
        except ValueError as e:
            raise ValueError(f"preprocess: {e}") from None
        try:
            self.example.array()
        except ValueError as e:
            raise ValueError(f"the example's numbers: {e}") from None
        return self

    def _example_fits(self, spec: Spec) -> None:
        if self.example.dtype != DTYPES[self.modality]:
            raise ValueError(f"the example is {self.example.dtype}, the graph takes {DTYPES[self.modality]}")
        shape = self.example.shape
        if isinstance(spec, TextSpec):
            if spec.encoding == "none" or len(shape) != 1 or not 1 <= shape[0] <= spec.max_tokens:
                raise ValueError(f"the example has shape {shape}, encoding {spec.encoding!r} of {spec.max_tokens} ids")
        elif shape != spec.shape:
            raise ValueError(f"the example has shape {shape}, preprocess makes {spec.shape}")


def read(folder: Path) -> Manifest:
    """Read and check `folder/bundle.json`. Raises BundleError when it is missing, broken or of an unknown schema."""
    path = folder / "bundle.json"
    if not path.is_file() or not (folder / "model.onnx").is_file():
        raise BundleError(
            f"{folder} is not a model bundle",
            found="it lacks " + " and ".join(n for n in ("bundle.json", "model.onnx") if not (folder / n).is_file()),
            next="`proj export RUN` makes one",
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is over {MAX_MANIFEST_BYTES // 2**20} MiB", next="`proj export RUN` makes a new one")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{path} is not JSON", found=str(e), next="`proj export RUN` makes a new one") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int or not OLDEST_READABLE <= version <= SCHEMA:
        raise BundleError(
            f"{path} has schema version {version!r}",
            found=f"this proj reads {OLDEST_READABLE} to {SCHEMA}",
            next="export it again with this version of proj: `proj export RUN`",
        )
    try:
        manifest = Manifest.model_validate({**raw, "schema_version": SCHEMA})
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or "bundle.json"
        raise BundleError(
            f"{path} is not a bundle's manifest",
            found=f"{where}: {first['msg']}",
            next="`proj export RUN` makes a new one",
        ) from None
    needed = _needed(manifest)
    if TOKENIZER in needed and not (folder / TOKENIZER).is_file():
        raise BundleError(f"{folder} lacks {TOKENIZER}", next="`proj export RUN` makes a new one")
    if version >= HASHED_SINCE and needed - set(manifest.files):
        raise BundleError(
            f"{path} is not a bundle's manifest",
            found=f"files: no hash of {' and '.join(sorted(needed - set(manifest.files)))}",
            next="`proj export RUN` makes a new one",
        )
    return manifest


def _needed(manifest: Manifest) -> set[str]:
    """The files that a bundle has beside bundle.json."""
    spec = manifest.spec
    with_tokenizer = isinstance(spec, TextSpec) and spec.encoding == "tokenizer"
    return {GRAPH, TOKENIZER} if with_tokenizer else {GRAPH}


def write(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json atomically, with the hashes of the files that are there: it comes last."""
    hashes = {name: sha256(folder / name) for name in sorted(_needed(manifest))}
    whole = manifest.model_copy(update={"files": hashes})
    tmp = folder / "bundle.json.tmp"
    tmp.write_text(whole.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(tmp, folder / "bundle.json")


def verify(folder: Path) -> Manifest:
    """Read a bundle and compare its files with the hashes in its manifest, of which schemas 1 and 2 have none.

    Raises BundleError, as `read` does, and for a file that is not the one that was exported.
    """
    manifest = read(folder)
    for name, want in manifest.files.items():
        try:
            got = sha256(folder / name)
        except OSError as e:
            raise BundleError(f"{folder / name} cannot be read", found=e.strerror or str(e)) from None
        if got != want:
            raise BundleError(
                f"{folder / name} is not the file that bundle.json names",
                found=f"SHA-256 {got[:12]}..., expected {want[:12]}...",
                next="copy the whole bundle again, or `proj export RUN`",
            )
    return manifest


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as f:
        return file_digest(f, "sha256").hexdigest()


def check_graph(path: Path) -> None:
    """Refuse an ONNX file that names other files, brings its own operators, or is no ONNX at all."""
    import onnx

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as e:  # protobuf's decoder raises its own kinds
        raise BundleError(f"{path} is not an ONNX model", found=type(e).__name__) from None
    if not model.graph.node:
        raise BundleError(f"{path} is not an ONNX model", found="a graph without nodes")
    domains = {o.domain for o in model.opset_import} - {"", "ai.onnx"}
    if domains or model.functions:
        raise BundleError(f"{path} brings its own operators", found=", ".join(sorted(domains)) or "functions")
    for tensor in _tensors(model.graph, path):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BundleError(f"{path} keeps weights in another file", found=f"tensor {tensor.name!r}")


def _tensors(graph: Any, path: Path) -> Any:
    yield from graph.initializer
    for node in graph.node:
        if node.domain not in {"", "ai.onnx"}:
            raise BundleError(f"{path} brings its own operators", found=f"{node.domain}.{node.op_type}")
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner, path)
