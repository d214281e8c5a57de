"""Texts: from what people have to a cleaned string, and from that to the ids that a model takes."""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proj.errors import InputError, InputTooLarge, UnsupportedInput
from proj.preprocess import ngrams
from proj.preprocess.spec import PAD, TextSpec

Ids = np.ndarray[Any, np.dtype[np.int32]]
UNKNOWN = 1  # the one id of a text in which nothing is known
MAX_CHARS = 1_000_000  # a long novel; more is not a text that anybody pastes
START, END = 2000, 200  # letters in which a dateline and a credit are looked for; a title may stand before the dateline
SHORTEST_STORY = 200  # letters; what is shorter is a title or a post, and its capitals are no place
LONGEST_TOKEN = 64  # letters: what lies behind max_tokens times this many is never read


# --- from a source to a cleaned string


def clean(source: str | bytes | Path | Mapping[str, Any], spec: TextSpec) -> str:
    """The text that a model reads: fields joined by a space, spaces, Unicode forms and quotes even, `drop` applied.

    A plain str, UTF-8 bytes or a .txt file is the last field alone. HTML's entities and tags are undone. Raises
    InputError (empty, no such field, no UTF-8), InputTooLarge, UnsupportedInput (a file of another kind).
    """
    fields = _fields(source, spec)
    if sum(map(len, fields)) > MAX_CHARS:
        raise InputTooLarge("the text is too long", found=f"over {MAX_CHARS:,} letters")
    text = " ".join(filter(None, (_cleaned(f, spec.drop) for f in fields)))
    if not text:
        said = "empty" if not any(f.strip() for f in fields) else "nothing is left of it once it is cleaned"
        raise InputError("the text is empty", found=said, next="give a text with words in it")
    return text


def _fields(source: Any, spec: TextSpec) -> list[str]:
    """The spec's fields, in its order, as they were given."""
    if isinstance(source, Mapping):
        return _of_mapping(source, spec)
    if isinstance(source, Path):
        if source.suffix.lower() != ".txt":
            raise UnsupportedInput(
                f"{source.name} is not a text", found=source.suffix or "no suffix", next="give a .txt file"
            )
        try:
            source = source.read_bytes()
        except OSError as e:
            raise InputError(f"{source} cannot be read", found=e.strerror or str(e)) from None
    if isinstance(source, bytes):
        try:
            source = source.decode("utf-8-sig")
        except UnicodeDecodeError as e:
            raise InputError(
                "the text is not UTF-8", found=f"byte {e.start} is {source[e.start]:#04x}", next="save it as UTF-8"
            ) from None
    if not isinstance(source, str):
        raise InputError(
            "an input is not a text", found=type(source).__name__, next=f"give text, or {_shown(spec.fields)}"
        )
    return [source]


def _of_mapping(source: Mapping[str, Any], spec: TextSpec) -> list[str]:
    unknown = [k for k in source if k not in spec.fields]
    if unknown:
        raise InputError(
            "a text has no such field", found=str(unknown[0])[:80], next=f"its fields are {_shown(spec.fields)}"
        )
    for key, value in source.items():
        if not isinstance(value, str):
            raise InputError(
                f"the field {key} is not text", found=type(value).__name__, next=f"{_shown(spec.fields)} are strings"
            )
    return [source.get(f, "") for f in spec.fields]


def _shown(fields: tuple[str, ...]) -> str:
    return ", ".join(fields)


TAGS = (
    "a|abbr|article|aside|b|blockquote|body|br|center|cite|code|div|em|embed|figcaption|figure|font|footer|form|h[1-6]"
    "|head|header|hr|html|i|iframe|img|input|label|li|link|main|meta|nav|ol|p|picture|pre|q|s|script|section|small"
    "|source|span|strike|strong|style|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|u|ul|video|wbr"
)
_TAG = re.compile(
    rf"</?(?:{TAGS})(?:\s[^<>]{{0,2000}})?/?>|<!--[^<>]{{0,2000}}-->|<!doctype[^<>]{{0,200}}>", re.IGNORECASE
)
_CODE = re.compile(r"<(script|style)\b[^<>]{0,2000}>[^<]{0,100000}</\1\s*>", re.IGNORECASE)
# One form for the quotes and dashes that programs set, and nothing for letters that cannot be seen.
_EVEN = str.maketrans("‘’‚‛′“”„‟″«»‐‑‒", '\'\'\'\'\'"""""""---', "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _cleaned(text: str, drop: tuple[str, ...]) -> str:
    if "&" in text:
        text = html.unescape(html.unescape(text))  # twice: &amp;gt; is common where pages were copied
    if "<" in text:
        text = _TAG.sub(" ", _CODE.sub(" ", text))
    text = unicodedata.normalize("NFC", _UNSEEN.sub(" ", text).translate(_EVEN))
    text = " ".join(text.split())
    return " ".join(_without(text, drop).split()) if drop else text


# --- what gives a publisher away


@dataclass(frozen=True)
class _Agencies:
    """`dateline`: up to an agency in brackets and a dash. `opening`: a place in capitals and a dash, nobody named."""

    dateline: re.Pattern[str]
    opening: re.Pattern[str]
    name: re.Pattern[str]


@functools.lru_cache(maxsize=8)
def _agencies(drop: tuple[str, ...]) -> _Agencies:
    """Patterns for the names. One of capitals alone, such as AP, stands only for itself in capitals."""
    longest_first = sorted(drop, key=len, reverse=True)
    forms = [re.escape(n) if n.isupper() else f"(?i:{re.escape(n)})" for n in longest_first]
    name = rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)"
    # Words never give back a letter (`+` after a count): a text of nothing but "A.A.A." costs no more than another.
    capitals = r"(?:[A-Z][A-Z.'-]{1,20}+,?[ /]){0,4}"
    others = r"(?:(?:[A-Z][a-z]{1,20}+\.?,?|\d{1,2})[ /]){0,3}"
    place = rf"(?<!\w){capitals}(?:{others}{capitals})?"
    # What comes before it in a story that was sent again: "(Corrects the name in paragraph 2) By A Person".
    before = r"(?:\A(?:\([^()]{0,250}\) ?)?(?:By [^()]{2,80} )?)?"
    agency = rf"\((?:[^()]{{0,20}}{name}[^()]{{0,20}}| ?)\)"
    alone = r"\A[A-Z][A-Z.'/-]{2,40}+(?:,? [A-Z][A-Z.'/-]{1,40}+){0,3}(?:, [A-Z][a-z]+\.?)? ?(?:\([^()]{0,30}\))?"
    return _Agencies(
        dateline=re.compile(rf"{before}{place} ?{agency} ?(?:-{{1,2}}|[–—:])(?: |\Z)"),
        opening=re.compile(rf"{alone} (?:-{{1,2}}|[–—]) "),
        name=re.compile(rf"\( ?{name} ?\)|[@#]?{name}(?:'s|\.com)?"),
    )


# "Featured image via A Person/Getty Images.", a sentence of its own; sites glue it to the last word.
_CREDIT = re.compile(
    r"(?<=\S) ?(?:F(?i:eatured image)|(?:Images?|Photos?|Pictures?|Screen ?(?:shots?|caps?|captures?|grabs?)))"
    r"(?: (?:credit|courtesy of|courtesy|via|by)\b| ?:) ?[^.!?]{0,80}\.?\Z"
)


def _without(text: str, drop: tuple[str, ...]) -> str:
    """`text` without datelines, agencies' names, and the credit of a photo at its end."""
    say = _agencies(drop)
    start, rest = text[:START], text[START:]
    start = say.dateline.sub(" ", start).lstrip()
    if len(text) > SHORTEST_STORY:
        start = say.opening.sub("", start)
    text = start + rest
    tail = max(0, len(text) - END)
    text = text[:tail] + _CREDIT.sub(" ", text[tail:])
    return re.sub(r"\(\s*[,/]?\s*\)", " ", say.name.sub(" ", text))


# --- from a cleaned string to ids


def ids(text: str, spec: TextSpec, tokenizer: Any = None) -> Ids:
    """int32 (n,), 1 <= n <= spec.max_tokens, never PAD. `text` is cleaned; `tokenizer` a tokenizers.Tokenizer.

    Hashed n-grams come each once, in the order of their numbers; tokens in the order of the text.
    """
    text = text[: spec.max_tokens * LONGEST_TOKEN]
    if spec.encoding == "hash":
        found = ngrams.hashed(text, spec.word_ngrams, spec.char_ngrams, spec.buckets, spec.max_tokens)
    elif spec.encoding == "tokenizer" and tokenizer is not None:
        found = np.array(tokenizer.encode(text).ids[: spec.max_tokens], np.int32)
        if spec.pad != PAD:
            found = np.where(found == PAD, spec.pad, np.where(found == spec.pad, PAD, found)).astype(np.int32)
        found = found[found != PAD]
    else:
        raise ValueError(f"encoding {spec.encoding} with tokenizer {tokenizer}")
    return found if len(found) else np.array([UNKNOWN], np.int32)
