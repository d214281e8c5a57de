"""What an input looks like when it reaches a model, by modality."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

PAD = 0  # a text's id of nothing: a graph leaves it out

Modality = Literal["image", "text", "series"]


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How an image reaches the model: uint8 (height_px, width_px, channels), channels 1 (grey) or 3 (RGB).

    fit="squash" resizes to the shape, whatever the aspect. fit="ink" is for drawings: whatever their colours
    they become light strokes on black, are cut out and centred so that their longer side fills `ink_px`
    pixels (0, or more than there is room for: as large as fits). With `stroke_px` lines drawn with any pen
    become so many pixels wide, and the shape that they draw is what is scaled; 0 keeps a line's own width.

    `views`: pictures of one thing that make one input; of fewer, some are taken again.
    """

    height_px: int
    width_px: int
    channels: Literal[1, 3] = 3
    fit: Literal["squash", "ink"] = "squash"
    ink_px: int = 0
    stroke_px: float = 0.0
    views: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input: (height, width, channels), with several views (views, height, width, channels)."""
        return (self.views, *self.view_shape) if self.views > 1 else self.view_shape

    @property
    def view_shape(self) -> tuple[int, int, int]:
        return (self.height_px, self.width_px, self.channels)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """How a text reaches the model: `fields` joined in this order, cleaned, then as int32 ids (n,), n <= max_tokens.

    `drop`: names (of news agencies) that are taken out wherever they stand, with the dateline that one of them ends
    and the photo's credit at the end of a field.
    `encoding`: "tokenizer" (the tokenizer.json beside it) or "hash" (word n-grams up to `word_ngrams` words and
    character n-grams of `char_ngrams` letters, hashed into 1..buckets); "none" before a model has decided it.
    `pad`: the tokenizer's own id of nothing. It and PAD change places in what `ids` gives.
    """

    fields: tuple[str, ...] = ("text",)
    drop: tuple[str, ...] = ()
    encoding: Literal["none", "tokenizer", "hash"] = "none"
    max_tokens: int = 0
    buckets: int = 0
    word_ngrams: int = 0
    char_ngrams: tuple[int, int] = (0, 0)
    pad: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SeriesSpec:
    """How a series reaches the model: float32 (steps, len(channels)), raw; the graph normalises.

    normalise="training" uses the training split's mean and standard deviation of each channel, "window" each
    window's own, since a server sees one window alone.
    """

    steps: int
    channels: tuple[str, ...]
    normalise: Literal["training", "window"] = "training"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.steps, len(self.channels))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Spec = ImageSpec | TextSpec | SeriesSpec
KINDS: dict[str, Any] = {"image": ImageSpec, "text": TextSpec, "series": SeriesSpec}


def read(modality: str, content: object) -> Spec:
    """A spec from JSON's objects. Raises ValueError that says what does not fit."""
    from pydantic import TypeAdapter, ValidationError  # here: `proj config` needs a task's spec, not this

    known = {f.name for f in fields(KINDS[modality])}
    odd = sorted(set(content) - known) if isinstance(content, dict) else []
    if odd:
        raise ValueError(f"it has {odd[0]!r}; there are {', '.join(sorted(known))}")
    try:
        made: Spec = TypeAdapter(KINDS[modality]).validate_json(json.dumps(content), strict=True)
    except (TypeError, ValidationError) as e:
        raise ValueError(" ".join(str(e).split())) from None
    return made
