"""`proj.train.explain`: networks that look at one known place, and whether it is found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_baseline import prepared, texts
from torch import nn

from proj.preprocess.spec import ImageSpec, SeriesSpec, TextSpec
from proj.train import explain


class Corner(nn.Module):
    """Class 1 when the upper left quarter of the (last) picture is bright, whatever the rest shows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, -1] if x.dim() == 5 else x
        bright = x[:, : x.shape[1] // 2, : x.shape[2] // 2].float().mean((1, 2, 3)) / 255
        return torch.stack([torch.zeros_like(bright), self.gain * (bright - 0.5)], 1)


class Backbone(nn.Module):
    """A timm model as the encoder of pictures holds it, and a head."""

    def __init__(self, name: str, **options: Any) -> None:
        import timm

        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Module()
        self.encoder.backbone = timm.create_model(name, pretrained=False, num_classes=0, **options)
        self.linear = nn.Linear(self.encoder.backbone.num_features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        views = x if x.dim() == 5 else x[:, None]
        pixels = views.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        y: torch.Tensor = self.linear(self.encoder.backbone(pixels)).unflatten(0, views.shape[:2]).mean(1)
        return y


class Push(nn.Module):
    """Class 1 by what channel 2 does in steps 6 to 8."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.gain * x[:, 6:9, 2].sum(1)
        return torch.stack([-y, y], 1)


class Words(nn.Module):
    """Class 1 by the sum of its words' weights; PAD weighs nothing."""

    def __init__(self, weights: dict[int, float], size: int) -> None:
        super().__init__()
        own = torch.zeros(size)
        for i, w in weights.items():
            own[i] = w
        self.own = nn.Parameter(own)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.own[x.long()].sum(1)
        return torch.stack([-y, y], 1)


def view(data: Any, spec: Any, tokenizer: Any = None) -> Any:
    return SimpleNamespace(prepared=data, x=data.x, spec=spec, tokenizer=tokenizer)


def wrong(n: int, said: int = 1) -> np.ndarray:
    """Answers that are all class `said`, the first the surest."""
    prob = np.zeros((n, 2), np.float32)
    prob[:, said] = np.linspace(0.99, 0.6, n)
    prob[:, 1 - said] = 1 - prob[:, said]
    return prob


@pytest.mark.parametrize("views", [1, 2])
def test_pictures_without_a_map_by_hiding_patches(views: int) -> None:
    x = np.random.default_rng(0).integers(0, 60, (5, views, 32, 32, 1), dtype=np.uint8)
    x[:, :, :16, :16] += 180
    x = x[:, 0] if views == 1 else x
    data = prepared(x, np.zeros(5, np.int64), ["a", "b"], "image")
    net = Corner().train()
    got = explain.looks(
        net, view(data, ImageSpec(height_px=32, width_px=32, channels=1, views=views)), np.arange(5), wrong(5)
    )
    assert [g["index"] for g in got] == [0, 1, 2, 3, 4]
    assert net.training
    for g in got:
        heat = np.array(g["heat"])
        if views == 2:
            assert heat[0].max() == 0  # a view that it does not look at
            heat = heat[1]
        assert heat.shape == (8, 8)
        assert heat.max() == 1
        assert heat[:4, :4].sum() > 0.95 * heat.sum()


def test_a_map_of_activations_adds_up_to_the_logit() -> None:
    """After average pooling and a linear layer each cell's share is exact: they sum to the logit less its bias."""
    net = Backbone("test_resnet", in_chans=3).eval()
    x = torch.randint(0, 255, (1, 160, 160, 3), dtype=torch.uint8)
    backbone: Any = net.encoder.backbone
    with explain._caught(backbone) as maps:
        y = net(x)[0, 2]
        (gradient,) = torch.autograd.grad(y, maps[0])
    assert "forward_features" not in vars(backbone)
    shares = explain._spatial(backbone, gradient * maps[0])
    assert shares is not None
    assert shares.shape == (1, 5, 5)
    assert shares.sum().item() == pytest.approx((y - net.linear.bias[2]).item(), rel=1e-4)


@pytest.mark.parametrize(("name", "options", "shape"), [
    ("test_resnet", {"in_chans": 1}, (160, 192, 1)),
    ("test_vit", {"in_chans": 3}, (160, 160, 3)),
    ("test_resnet", {"in_chans": 3}, (2, 160, 160, 3)),
])  # fmt: skip
def test_pictures_by_the_backbones_map(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 255, (3, *shape), dtype=np.uint8)
    data = prepared(x, np.zeros(3, np.int64), ["a", "b", "c"], "image")
    spec = ImageSpec(
        height_px=shape[-3], width_px=shape[-2], channels=shape[-1], views=len(shape) - 2 if len(shape) > 3 else 1
    )
    net = Backbone(name, **options).requires_grad_(False)  # a frozen one has a map too
    net.linear.requires_grad_(True)
    prob = np.tile(np.float32([0.1, 0.7, 0.2]), (3, 1))
    got = explain.looks(net, view(data, spec), np.arange(3), prob, limit=1)
    assert got == explain.looks(net, view(data, spec), np.arange(3), prob, limit=1)
    heat = np.array(got[0]["heat"])
    assert len(got) == 1
    assert heat.ndim == (3 if len(shape) == 4 else 2)
    assert min(heat.shape[-2:]) >= explain.COARSEST
    assert (heat.min() >= 0, heat.max()) == (True, 1)
    assert net.linear.weight.grad is None


def test_a_map_that_is_too_coarse_is_not_shown() -> None:
    net = Backbone("test_resnet", in_chans=1).eval()
    assert explain._activation(net, torch.zeros(1, 8, 8, 1, dtype=torch.uint8), 0, False) is None


def test_series_by_hiding_windows() -> None:
    x = np.random.default_rng(0).normal(size=(4, 12, 5)).astype(np.float32)
    x[:, 6:9, 2] += 4
    data = prepared(x, np.zeros(4, np.int64), ["a", "b"], "series")
    spec = SeriesSpec(steps=12, channels=tuple("abcde"))
    for g in explain.looks(Push(), view(data, spec), np.arange(4), wrong(4)):
        heat = np.array(g["heat"])
        assert heat.shape == (12, 5)
        assert (heat[6:9, 2] > 0.2).all()
        assert heat.sum() == pytest.approx(heat[6:9, 2].sum())


@pytest.mark.parametrize("shape", [(1000, 3), (3, 400), (1, 1)])
def test_series_of_any_size(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    spec = SeriesSpec(steps=shape[0], channels=tuple(map(str, range(shape[1]))))
    data = prepared(x, np.zeros(2, np.int64), ["a", "b"], "series")
    net = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], 2))
    for g in explain.looks(net, view(data, spec), np.arange(2), wrong(2)):
        assert np.array(g["heat"]).shape == shape


def tokenizer(vocabulary: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *vocabulary])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


@pytest.mark.parametrize("length", [6, 39, 300])
def test_texts_by_leaving_out_words(length: int) -> None:
    words = [f"w{i}" for i in range(length)]
    words[length // 2], words[length // 2 - 1] = "shocking", "reuters"
    spec = TextSpec(encoding="tokenizer", max_tokens=512)
    tok = tokenizer(sorted({*words}))
    net = Words({tok.token_to_id("shocking"): 3.0, tok.token_to_id("reuters"): -1.5}, tok.get_vocab_size())
    whole = " ".join(words)
    data = prepared(texts([whole]), np.zeros(1, np.int64), ["real", "fake"], "text")
    (got,) = explain.looks(net, view(data, spec, tok), np.arange(1), wrong(1))
    named = {got["text"][a:b]: w for a, b, w in got["spans"]}
    assert named["shocking"] == 1.0
    assert named["reuters"] < 0
    assert len(got["spans"]) <= explain.SPANS
    if length <= explain.SPANS:
        assert set(named) == {"shocking", "reuters"}


def test_values_explain_the_target_furthest_off() -> None:
    x = np.full((3, 16, 16, 1), 40, np.uint8)
    x[:, :8, :8] = 200
    y = np.float32([[10, 100], [20, 200], [30, 300]])
    data = prepared(x, y, ["mass", "volume"], "image", "values")
    pred = y + np.float32([[0, 500], [0, 0], [0, 10]])
    got = explain.looks(Corner(), view(data, ImageSpec(height_px=16, width_px=16, channels=1)), np.arange(3), pred)
    assert got[0]["index"] == 0
    assert np.array(got[0]["heat"])[:4, :4].sum() > 0


class Blind(nn.Module):
    """Says the same of everything; or says nothing at all."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.tensor([0.0, value]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out.expand(len(x), 2)


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_network_that_looks_at_nothing_gives_nothing(value: float) -> None:
    data = prepared(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64), ["a", "b"], "image")
    spec = ImageSpec(height_px=8, width_px=8, channels=1)
    assert explain.looks(Blind(value), view(data, spec), np.arange(2), wrong(2)) == []
    assert explain.looks(Blind(value), view(data, spec), np.arange(0), wrong(0)) == []


def test_right_answers_are_not_explained() -> None:
    data = prepared(np.zeros((2, 8, 8, 1), np.uint8), np.ones(2, np.int64), ["a", "b"], "image")
    assert (
        explain.looks(Corner(), view(data, ImageSpec(height_px=8, width_px=8, channels=1)), np.arange(2), wrong(2))
        == []
    )
