"""What /openapi.json says of the body of POST /predict: that of this bundle's modality alone, with examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proj.preprocess.spec import ImageSpec, SeriesSpec, TextSpec
from proj.serve import form, upload

if TYPE_CHECKING:
    from proj.bundle import Manifest
    from proj.preprocess.spec import Spec

BINARY = {"type": "string", "format": "binary"}
WORDS = {"image": "picture", "text": "text", "series": "window"}
EXAMPLE_CHARACTERS = 2000  # a longer sample is shown by name only, on the page
# The smallest PNG there is: one grey pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCB0hZuRwAAAABJRU5ErkJggg=="


def word(manifest: Manifest) -> str:
    """What one input is called."""
    return WORDS[manifest.modality]


def answers(manifest: Manifest) -> str:
    """What the operation does, for /openapi.json and /docs."""
    name, kind = word(manifest), upload.RAW_TYPES[manifest.modality][-1]
    several = f"Send `{upload.JSON_TYPE}`, `multipart/form-data` with a part called `{form.FIELD}` for each {name}"
    return (
        f"One {name} gives one answer, several give a list in their order.\n\n"
        f"{several}, or one {name} as the raw body (`{kind}`). In a list, a {name} that cannot be read has `error` in "
        "place of an answer; a single one that cannot be read is a problem with status 413, 415 or 422."
    )


def request_body(manifest: Manifest) -> dict[str, Any]:
    """The Request Body Object of OpenAPI."""
    spec = manifest.spec
    content: dict[str, Any] = {"multipart/form-data": {"schema": _form(spec)}}
    content[upload.JSON_TYPE] = {"schema": _json(spec), "examples": _examples(manifest)}
    for kind in upload.RAW_TYPES[manifest.modality]:
        content[kind] = {"schema": {"type": "string"} if kind.startswith("text/") else BINARY}
    return {"required": True, "description": _about(spec), "content": content}


def _about(spec: Spec) -> str:
    if isinstance(spec, TextSpec):
        fields = ", ".join(f"`{f}`" for f in spec.fields)
        return f"One or several texts, UTF-8. Fields: {fields}; the last one alone is enough."
    if isinstance(spec, SeriesSpec):
        channels = ", ".join(f"`{c}`" for c in spec.channels)
        return f"One or several windows of {spec.steps} steps and {len(spec.channels)} channels: {channels}."
    what = "One or several pictures: JPEG, PNG, WebP, GIF, BMP or TIFF."
    return f"{what} Up to {spec.views} views of one thing make one input." if spec.views > 1 else what


def _form(spec: Spec) -> dict[str, Any]:
    several = {"type": "array", "items": BINARY}
    files = {form.FIELD: {**several, "description": "Inputs, an answer each"}}
    if not isinstance(spec, ImageSpec) or spec.views == 1:
        return {"type": "object", "required": [form.FIELD], "properties": files}
    views = {**several, "maxItems": spec.views, "description": "One input: views of one thing"}
    return {"type": "object", "properties": {**files, form.VIEWS: views}}


def _json(spec: Spec) -> dict[str, Any]:
    one = _one(spec)
    several = {
        "type": "object",
        "required": ["inputs"],
        "properties": {"inputs": {"type": "array", "minItems": 1, "items": one}},
        "additionalProperties": False,
    }
    return {"anyOf": [one, several]}


def _one(spec: Spec) -> dict[str, Any]:
    if isinstance(spec, TextSpec):
        return _object({f: {"type": "string"} for f in spec.fields}, [spec.fields[-1]])
    if isinstance(spec, SeriesSpec):
        return _object({"series": {"anyOf": [_rows(spec), _channels(spec)]}}, ["series"])
    picture = {"type": "string", "format": "byte", "description": "A file's bytes in base64"}
    one = _object({"image": picture}, ["image"])
    if spec.views == 1:
        return one
    views = {"type": "array", "minItems": 1, "maxItems": spec.views, "items": picture}
    return {"anyOf": [one, _object({"views": views}, ["views"])]}


def _rows(spec: SeriesSpec) -> dict[str, Any]:
    return {**_numbers(spec.steps), "items": _numbers(len(spec.channels)), "description": "A row a step"}


def _channels(spec: SeriesSpec) -> dict[str, Any]:
    channels = dict.fromkeys(spec.channels, _numbers(spec.steps))
    return {**_object(channels, list(spec.channels)), "description": "A list a channel"}


def _numbers(n: int) -> dict[str, Any]:
    return {"type": "array", "minItems": n, "maxItems": n, "items": {"type": "number"}}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _examples(manifest: Manifest) -> dict[str, Any]:
    """The bundle's own samples where they are short enough to read, else one that is made."""
    short = [s.body for s in manifest.samples if len(str(s.body)) <= EXAMPLE_CHARACTERS]
    body = short[0] if short else _made(manifest.spec)
    return {"one": {"value": body}, "several": {"value": {"inputs": (short[:2] if len(short) > 1 else [body, body])}}}


def _made(spec: Spec) -> dict[str, Any]:
    if isinstance(spec, TextSpec):
        return {f: f"The {f} of an article" for f in spec.fields}
    if isinstance(spec, SeriesSpec):
        return {"series": {c: [round(0.1 * t, 1) for t in range(spec.steps)] for c in spec.channels}}
    return {"views": [PIXEL] * spec.views} if spec.views > 1 else {"image": PIXEL}
