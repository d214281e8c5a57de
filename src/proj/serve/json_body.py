"""From a JSON body to what `infer.decode` takes.

One input is `{"title": ..., "text": ...}`, `{"series": ...}`, `{"image": BASE64}` or `{"views": [BASE64, ...]}`;
several are `{"inputs": [one, one, ...]}`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from proj.errors import BadRequest, InputError, InputTooLarge
from proj.preprocess.spec import ImageSpec, SeriesSpec, TextSpec

if TYPE_CHECKING:
    from proj.preprocess.spec import Spec

# What `infer.decode` takes and HTTP can bring: a file, a text, views or steps, fields or channels.
Content = bytes | str | list[Any] | dict[str, Any]
SEVERAL = "inputs"
SPARE = 1_000  # commas of an input beside its values: names, and values that are too many and are told so
SHOWN = 60  # characters of what was found


def parse(raw: bytes) -> Any:
    """Python values. Raises BadRequest for what is no JSON, InputError for NaN, a key given twice, or deep nesting."""
    if not raw:
        raise InputError("the body is empty", found="0 bytes")
    try:
        # Whole numbers too become floats: Python's own have no upper bound, and a model's inputs have.
        return json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_number, parse_int=float)
    except RecursionError:
        raise InputError("the JSON is nested too deeply") from None
    except ValueError as e:  # not JSON, or not in a Unicode encoding
        raise BadRequest("the body is not JSON", found=str(e)[:200]) from None


def check_count(raw: bytes, spec: Spec, max_inputs: int) -> None:
    """Refuse far more values than the inputs of a request can have, before any is parsed. Raises InputTooLarge.

    Megabytes of numbers would keep the interpreter from everybody else for tenths of a second. Texts may hold commas.
    """
    most = max_inputs * (_values(spec) + SPARE)
    if raw.count(b",") > most and (found := _commas_between_strings(raw, most)) > most:
        raise InputTooLarge(
            "the JSON holds too many values", found=f"{found} or more; {max_inputs} inputs have under {most}"
        )


def _values(spec: Spec) -> int:
    """How many an input has."""
    if isinstance(spec, SeriesSpec):
        return spec.shape[0] * spec.shape[1]
    return len(spec.fields) if isinstance(spec, TextSpec) else spec.views


def _commas_between_strings(raw: bytes, most: int) -> int:
    """How many, if no more than `most`; so many strings that there would have to be more count as more."""
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogatepass")
    except UnicodeDecodeError:  # which `parse` finds at once
        return 0
    quotes = 4 * (most + 1)  # a value and its name
    pieces = text.replace(r"\\", "").replace(r"\"", "").split('"', quotes)
    return most + 1 if len(pieces) > quotes else sum(between.count(",") for between in pieces[::2])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise InputError(f"the JSON has the key {twice[:SHOWN]!r} twice in one object")
    return made


def _no_number(name: str) -> NoReturn:
    raise InputError(f"{name} is no number in JSON", found="a finite number is needed")


def split(content: Any, max_inputs: int) -> tuple[list[Any], bool]:
    """The inputs' own objects, and whether they came as a list. Raises InputError, InputTooLarge."""
    if not isinstance(content, dict):
        raise InputError("the JSON is not an object", found=_found(content))
    if SEVERAL not in content:
        return [content], False
    _check_keys(content, (SEVERAL,))
    inputs = content[SEVERAL]
    if not isinstance(inputs, list) or not inputs:
        raise InputError(f"{SEVERAL!r} is not a list of inputs", found=_found(inputs))
    if len(inputs) > max_inputs:
        raise InputTooLarge("too many inputs in one request", found=f"the limit is {max_inputs}")
    return inputs, True


def source(content: Any, spec: Spec) -> Content:
    """One input's object as `infer.decode` takes it. Raises InputError that names the fields."""
    if not isinstance(content, dict):
        raise InputError("an input is not an object", found=_found(content))
    if isinstance(spec, TextSpec):
        return _text(content, spec)
    return _image(content, spec) if isinstance(spec, ImageSpec) else _series(content, spec)


def keys(spec: Spec) -> tuple[str, ...]:
    """The names that an input's object may have."""
    if isinstance(spec, TextSpec):
        return spec.fields
    if isinstance(spec, ImageSpec):
        return ("image", "views") if spec.views > 1 else ("image",)
    return ("series",)


def _text(content: dict[str, Any], spec: TextSpec) -> Content:
    if set(content) == {"text"}:  # whatever the task calls its last field, a text alone is that one
        return _string(content["text"], "text")
    _check_keys(content, spec.fields)
    last = spec.fields[-1]
    if last not in content:
        raise InputError(f"the field {last!r} is missing", found=f"the fields are {_listed(spec.fields)}")
    return {name: _string(value, name) for name, value in content.items()}


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name!r} is not a text", found=_found(value))
    return value


def _series(content: dict[str, Any], spec: SeriesSpec) -> Content:
    _check_keys(content, ("series",))
    value = content.get("series")
    if not isinstance(value, list | dict):
        raise InputError(
            "'series' is neither a list of steps nor an object of channels",
            found=_found(value) if "series" in content else "it is missing",
        )
    _check_size(value, spec)
    return value


def _check_size(value: list[Any] | dict[str, Any], spec: SeriesSpec) -> None:
    """Megabytes of numbers are refused by their count alone, before any is looked at."""
    steps, channels = spec.shape
    if isinstance(value, dict):
        lengths = {f"channel {name!r}": len(value[name]) for name in spec.channels if isinstance(value.get(name), list)}
        wrong = next((f"{where} has {n}" for where, n in lengths.items() if n != steps), "")
    elif len(value) != steps:
        wrong = f"'series' has {len(value)}"
    else:
        short = ((i, len(row)) for i, row in enumerate(value) if isinstance(row, list) and len(row) != channels)
        i, n = next(short, (0, channels))
        if n != channels:
            raise InputError(f"step {i} of 'series' has {n} channels", found=f"the model takes {channels}")
        wrong = ""
    if wrong:
        raise InputError(f"{wrong} steps", found=f"the model takes {steps} steps of {channels} channels")


def _image(content: dict[str, Any], spec: ImageSpec) -> Content:
    names = keys(spec)
    _check_keys(content, names)
    if len(content) != 1:
        found = f"found {_listed(sorted(content))}" if content else "the object is empty"
        raise InputError(f"one of {_listed(names)} is needed", found=found)
    if "image" in content:
        return _picture(content["image"], "image")
    views = content["views"]
    if not isinstance(views, list) or not views:
        raise InputError("'views' is not a list of pictures", found=_found(views))
    if len(views) > spec.views:
        raise InputError("a wrong number of views", found=f"{len(views)} were given, the model takes 1 to {spec.views}")
    return [_picture(v, f"views[{i}]") for i, v in enumerate(views)]


def _picture(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise InputError(f"{name!r} is not a picture in base64", found=_found(value))
    given = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(given.split()), validate=True)
    except (binascii.Error, ValueError) as e:
        raise InputError(f"{name!r} is not base64", found=str(e)) from None


def _check_keys(content: dict[str, Any], known: Sequence[str]) -> None:
    unknown = [k for k in content if k not in known]
    if unknown:
        what = "unknown field" if len(unknown) == 1 else "unknown fields"
        named = _listed([k[:SHOWN] for k in unknown[:5]])
        raise InputError(f"{what} {named}", found=f"known: {_listed(known)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(n) for n in names)


def _found(value: Any) -> str:
    """What stands where something else is expected."""
    kinds = {dict: "an object", list: "a list", str: "a string", float: "a number", bool: "true or false"}
    kind = kinds.get(type(value), "null")
    return f"an empty {kind.split()[1]}" if value in ({}, [], "") else kind
