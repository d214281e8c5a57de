"""What a network looked at when it was most wrong: `looks.json`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from proj import answers, infer
from proj.preprocess import text
from proj.preprocess.spec import SeriesSpec, TextSpec

if TYPE_CHECKING:
    from proj.train.data import View

Array = np.ndarray[Any, np.dtype[Any]]
Tensor = torch.Tensor
BATCH = 32
COARSEST = 3  # a feature map with fewer cells a side shows nothing: patches are hidden instead
PATCHES = 8  # a side
SERIES_PARTS = 160  # windows of steps times channels that are hidden in turn
SPANS = 40  # parts of a text that are left out in turn
COARSE = 16  # so many of them are the parts of a long text, the others words of the heaviest
SHOWN_CHARS = 2_000
LEAST = 0.05  # of the heaviest: spans that weigh less are not named
WORD = re.compile(r"\S+")

Score = Callable[[Tensor], Array]  # a raw batch to one number an input: how strongly it says what it said


def looks(net: nn.Module, view: View, rows: Array, said: Array, limit: int = answers.WORST) -> list[dict[str, Any]]:
    """What weighed in the worst of the answers `said` to `rows`: probabilities (N, K), or values (N, T) in units.

    Pictures {"index", "heat": h x w, or views x h x w}, series {"index", "heat": steps x channels}: 0..1, the largest
    is 1. Texts {"index", "text", "spans": [[start, end, weight], ...]}: -1..1, over 0 what spoke for the answer. Of
    classes it is the said class that is explained, of values the target furthest off. The network keeps its mode.
    """
    prepared, mode = view.prepared, net.training
    truth, values = prepared.y[rows], prepared.meta.kind == "values"
    explain: Callable[[nn.Module, View, int, int], dict[str, Any] | None] = _picture
    if isinstance(view.spec, TextSpec):
        explain = _text
    elif isinstance(view.spec, SeriesSpec):
        explain = _series
    net.eval()
    try:
        found = []
        off = answers.off_by(said, truth) if values and len(truth) else said
        for at in answers.worst(said, truth, prepared.meta.kind, limit).tolist():
            look = explain(net, view, int(rows[at]), int(off[at].argmax()))
            if look is not None:
                found.append({"index": int(rows[at]), **look})
        return found
    finally:
        net.train(mode)


def _scorer(net: nn.Module, values: bool, output: int) -> Score:
    """Of classes the log-odds of class `output`, of values target `output` in standard deviations.

    Log-odds do not level off where an answer is sure, as probabilities do.
    """
    device = next(net.parameters()).device

    def score(x: Tensor) -> Array:
        with torch.no_grad():
            y = torch.cat([net(part.to(device)) for part in torch.split(x, BATCH)]).double()
            own = y[:, output].clone()
            if not values:
                y[:, output] = -torch.inf
                own = own - y.logsumexp(-1)
        return np.asarray(own.cpu().numpy())

    return score


def _values(view: View) -> bool:
    return view.prepared.meta.kind == "values"


def _heat(raw: Array) -> list[Any] | None:
    """Nested lists, scaled to a largest of 1 and rounded; None when nothing mattered or a number is not finite."""
    most = float(raw.max()) if raw.size else 0.0
    if not np.isfinite(raw).all() or most <= 0:
        return None
    nested: list[Any] = np.round(np.maximum(raw, 0) / most, 3).tolist()
    return nested


def _weighed(drops: Array, values: bool) -> Array:
    """What hiding a part changed, as heat: for classes what spoke for the answer, for values whatever moved it."""
    return np.abs(drops) if values or drops.max() <= 0 else np.maximum(drops, 0)


# Pictures


def _picture(net: nn.Module, view: View, row: int, output: int) -> dict[str, Any] | None:
    x = torch.from_numpy(np.array(view.x[row]))[None]
    raw = _activation(net, x, output, _values(view))
    if raw is None:
        raw = _patches(_scorer(net, _values(view), output), x, _values(view))
    heat = _heat(raw)
    return None if heat is None else {"heat": heat}


def _activation(net: nn.Module, x: Tensor, output: int, values: bool) -> Array | None:
    """Gradient times activation of the backbone's last map, summed over features (HiResCAM, arXiv 2011.08891).

    float (h, w), or (views, h, w); None for a backbone that has no map, or one too coarse to show anything.
    """
    backbone = getattr(getattr(net, "encoder", None), "backbone", None)
    if backbone is None or not hasattr(backbone, "forward_features"):
        return None
    with _caught(backbone) as maps, torch.enable_grad():
        y = net(x.to(next(net.parameters()).device))[0, output]
        if len(maps) != 1 or not y.requires_grad:
            return None
        gradient = torch.autograd.grad(y, maps[0])[0]
    spatial = _spatial(backbone, gradient * maps[0])
    if spatial is None or min(spatial.shape[1:]) < COARSEST or not bool(spatial.any()):
        return None  # nothing: all that is read after the map is a token of its own
    raw = spatial.detach().float().cpu().numpy()
    raw = _weighed(raw, values)
    return np.asarray(raw if x.dim() == 5 else raw[0])


@contextmanager
def _caught(backbone: Any) -> Iterator[list[Tensor]]:
    """Collect what `forward_features` returns, each cut off from what made it: gradients go no deeper."""
    maps: list[Tensor] = []
    whole = backbone.forward_features

    def catch(*args: Any, **kwargs: Any) -> Tensor:
        f: Tensor = whole(*args, **kwargs).detach().requires_grad_()
        maps.append(f)
        return f

    backbone.forward_features = catch
    try:
        yield maps
    finally:
        del backbone.forward_features  # the class's own shows again


def _spatial(backbone: Any, f: Tensor) -> Tensor | None:
    """(B, C, h, w), (B, h, w, C) or tokens (B, n, C), summed over the features to (B, h, w); None for anything else."""
    width = int(getattr(backbone, "num_features", 0))
    if f.dim() == 4:
        return f.sum(-1) if f.shape[-1] == width != f.shape[1] else f.sum(1)
    if f.dim() == 3:
        patches = f[:, int(getattr(backbone, "num_prefix_tokens", 0)) :].sum(-1)
        h, w = getattr(getattr(backbone, "patch_embed", None), "grid_size", (0, 0))
        return patches.reshape(-1, h, w) if h * w == patches.shape[1] else None
    return None


def _patches(score: Score, x: Tensor, values: bool) -> Array:
    """What hiding each patch of uint8 (1, ..., H, W, C) changes: float (h, w) or (views, h, w)."""
    views = x if x.dim() == 5 else x[:, None]
    h, w = (min(PATCHES, side) for side in views.shape[2:4])
    ys, xs = (np.linspace(0, side, n + 1).astype(int) for side, n in ((views.shape[2], h), (views.shape[3], w)))
    grey = views.float().mean((2, 3), keepdim=True).round().to(views.dtype)
    hidden = []
    for v in range(views.shape[1]):
        for i in range(h):
            for j in range(w):
                one = views[0].clone()
                one[v, ys[i] : ys[i + 1], xs[j] : xs[j + 1]] = grey[0, v]
                hidden.append(one if x.dim() == 5 else one[0])
    drops = (score(x)[0] - score(torch.stack(hidden))).reshape(views.shape[1], h, w)
    raw = _weighed(drops, values)
    return raw if x.dim() == 5 else np.asarray(raw[0])


# Series


def _series(net: nn.Module, view: View, row: int, output: int) -> dict[str, Any] | None:
    """Each channel's windows of steps in turn held at the channel's mean."""
    x = torch.from_numpy(np.array(view.x[row], np.float32))
    steps, channels = x.shape
    windows = max(1, min(steps, SERIES_PARTS // channels))
    ends = np.linspace(0, steps, windows + 1).astype(int)
    hidden = x.repeat(windows * channels, 1, 1)
    for i in range(windows):
        for c in range(channels):
            hidden[i * channels + c, ends[i] : ends[i + 1], c] = x[:, c].mean()
    score = _scorer(net, _values(view), output)
    drops = (score(x[None])[0] - score(hidden)).reshape(windows, channels)
    heat = _heat(np.repeat(_weighed(drops, _values(view)), np.diff(ends), 0))
    return None if heat is None else {"heat": heat}


# Texts


def _text(net: nn.Module, view: View, row: int, output: int) -> dict[str, Any] | None:
    """Words left out in turn; of a long text first its sixteen parts, then the words of the heaviest."""
    whole = view.prepared.x[row]
    words = [m.span() for m in WORD.finditer(whole)]
    if len(words) < 2:
        return None
    score = _scorer(net, _values(view), output)
    base = score(_ids(view, [whole]))[0]

    def weigh(parts: list[list[tuple[int, int]]]) -> list[float]:
        without = [whole[: p[0][0]] + " " + whole[p[-1][1] :] for p in parts]
        drops: list[float] = (base - score(_ids(view, [" ".join(t.split()) for t in without]))).tolist()
        return drops

    parts = _chunks(words, SPANS if len(words) <= SPANS else COARSE)
    weights = weigh(parts)
    if len(words) > SPANS:
        parts, weights = _finer(parts, weights, weigh)
    return _named(whole, parts, weights)


def _chunks(words: list[tuple[int, int]], most: int) -> list[list[tuple[int, int]]]:
    size = -(-len(words) // most)
    return [words[i : i + size] for i in range(0, len(words), size)]


def _finer(
    parts: list[list[tuple[int, int]]],
    weights: list[float],
    weigh: Callable[[list[list[tuple[int, int]]]], list[float]],
) -> tuple[list[list[tuple[int, int]]], list[float]]:
    """The heaviest parts word by word, as many as there is room for; the others are no longer named."""
    words: list[list[tuple[int, int]]] = []
    for at in np.argsort(-np.abs(weights), kind="stable").tolist():
        finer = _chunks(parts[at], SPANS - COARSE)
        if len(words) + len(finer) > SPANS - COARSE:
            break
        words += finer
    words.sort()
    return words, weigh(words)


def _ids(view: View, texts: list[str]) -> Tensor:
    assert isinstance(view.spec, TextSpec)
    return torch.from_numpy(infer.batch([text.ids(t, view.spec, view.tokenizer) for t in texts]))


def _named(whole: str, parts: list[list[tuple[int, int]]], weights: list[float]) -> dict[str, Any] | None:
    most = max(map(abs, weights))
    if not np.isfinite(weights).all() or most <= 0:
        return None
    named = [(p[0][0], p[-1][1], round(w / most, 3)) for p, w in zip(parts, weights, strict=True)]
    spans = [[a, b, w] for a, b, w in named if abs(w) >= LEAST and b <= SHOWN_CHARS]
    return {"text": whole[:SHOWN_CHARS], "spans": spans}
