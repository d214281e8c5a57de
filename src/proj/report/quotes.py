"""Texts inside a page: short quotes, and the words that weighed in an answer."""

from __future__ import annotations

from dataclasses import dataclass

EXAMPLE_CHARS = 160
MISTAKE_CHARS = 480
AROUND = 50  # letters shown on each side of words that weighed


@dataclass(frozen=True)
class Piece:
    """Part of a text. `side`: "for" the answer that was given, "against" it, or "". `strength` 0..1."""

    text: str
    side: str = ""
    strength: float = 0.0


def quote(text: str, chars: int = EXAMPLE_CHARS) -> str:
    """The beginning of a text, cut at a word's end."""
    return text if len(text) <= chars else text[:chars].rsplit(" ", 1)[0] + " …"


def marked(text: str, spans: tuple[tuple[int, int, float], ...], chars: int = MISTAKE_CHARS) -> list[Piece]:
    """`text` cut into pieces at its spans (start, end, weight). Of a long one the surroundings of the heaviest."""
    fit = sorted((max(a, 0), min(b, len(text)), w) for a, b, w in spans if max(a, 0) < min(b, len(text)))
    apart = [s for i, s in enumerate(fit) if i == 0 or s[0] >= fit[i - 1][1]]
    if not apart:
        return [Piece(quote(text, chars))]
    pieces: list[Piece] = []
    shown = _windows(text, apart, chars)
    for i, (start, end) in enumerate(shown):
        if i or start > 0:
            pieces.append(Piece(" … " if i else "… "))
        at = start
        for a, b, w in apart:
            if a < start or b > end:
                continue
            pieces += [Piece(text[at:a]), Piece(text[a:b], "for" if w > 0 else "against", min(abs(w), 1.0))]
            at = b
        pieces.append(Piece(text[at:end]))
    if shown[-1][1] < len(text):
        pieces.append(Piece(" …"))
    return [p for p in pieces if p.text]


def _windows(text: str, spans: list[tuple[int, int, float]], chars: int) -> list[tuple[int, int]]:
    """Parts of the text to show, in order: all of it, or room around the heaviest spans until `chars` are used."""
    if len(text) <= chars:
        return [(0, len(text))]
    chosen: list[tuple[int, int]] = []
    for a, b, _ in sorted(spans, key=lambda s: -abs(s[2])):
        chosen = _merged([*chosen, (_word(text, a - AROUND, 1), _word(text, b + AROUND, -1))])
        if sum(end - start for start, end in chosen) >= chars:
            break
    return chosen


def _merged(windows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in sorted(windows):
        if out and start <= out[-1][1] + 3:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


def _word(text: str, at: int, step: int) -> int:
    """The nearest word's edge from `at`, looking in the direction of `step`, at most AROUND letters away."""
    at = min(max(at, 0), len(text))
    if at in (0, len(text)):
        return at
    found = text.find(" ", at, at + AROUND) if step > 0 else text.rfind(" ", max(at - AROUND, 0), at)
    return at if found < 0 else found + (step > 0)
