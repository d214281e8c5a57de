"""The network that is trained and exported: pixels, a timm backbone, a head."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from proj.config import Model
from proj.errors import ConfigError, Unreachable

Tensor = torch.Tensor
FROZEN_BATCH = 32


class Pixels(nn.Module):
    """uint8 (B, H, W, C) to float (B, C, h, w) in 0..1, enlarged or reduced to what the backbone sees."""

    def __init__(self, shape: tuple[int, int, int], input_size_px: int) -> None:
        super().__init__()
        h, w, _ = shape
        scale = input_size_px / max(h, w) if input_size_px else 1.0
        self.size = (max(1, round(h * scale)), max(1, round(w * scale)))
        self.resize = self.size != (h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2).float() / 255
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=False) if self.resize else x


class Head(nn.Module):
    """Standardise, drop out, one linear layer that starts at zero.

    Zero, because timm's own start for a new classifier is far off for its mobile families (cross-entropy 8 to 13).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, outputs: int, drop_rate: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(features, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def standardise(self, f: Tensor) -> None:
        """Set the statistics from training features (N, features)."""
        self.mean.copy_(f.mean(0))
        self.std.copy_(f.std(0).clamp_min(1e-3))

    def forward(self, f: Tensor) -> Tensor:
        y: Tensor = self.linear(self.drop((f - self.mean) / self.std))
        return y


class Net(nn.Module):
    """Raw uint8 pixels (B, H, W, C) to logits (B, K)."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, m: Model, shape: tuple[int, int, int], outputs: int, mean: list[float], std: list[float]
    ) -> None:
        """`mean`, `std`: of the training split, used when the backbone brings none of its own."""
        super().__init__()
        self.pixels = Pixels(shape, m.input_size_px)
        self.backbone = backbone(m, shape[-1])
        if m.pretrained or m.weights:
            mean, std = (_own(self.backbone.pretrained_cfg[k], shape[-1]) for k in ("mean", "std"))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        with torch.no_grad():
            self.backbone.eval()
            width = self.backbone(torch.zeros(1, shape[-1], *self.pixels.size)).shape[-1]
        self.head = Head(width, outputs, m.drop_rate)
        self.frozen = m.freeze
        if m.freeze:
            self.backbone.requires_grad_(False)
        self.train()  # the probe above needed evaluation mode, and Lightning keeps the mode that it finds

    def train(self, mode: bool = True) -> Net:
        """A frozen backbone stays in evaluation mode: its batch statistics are weights too."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, x: Tensor) -> Tensor:
        """Float pixels in 0..1 (B, C, h, w) to features (B, F)."""
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        f: Tensor = self.backbone(x)
        return f

    def encode_frozen(self, x: Tensor) -> Tensor:
        """As `encode`, without gradients, and a row's features are the same bits whatever its neighbours are.

        Convolutions choose their kernels by the batch's size, so that each batch has FROZEN_BATCH rows; the last is
        filled up with black.
        """
        parts = []
        with torch.no_grad():
            for part in torch.split(x, FROZEN_BATCH):
                n = len(part)
                full = F.pad(part, (0, 0, 0, 0, 0, 0, 0, FROZEN_BATCH - n)) if n < FROZEN_BATCH else part
                parts.append(self.encode(full)[:n])
        return torch.cat(parts)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encode(self.pixels(x)))
        return y


def _own(values: Any, channels: int) -> list[float]:
    """A pretrained model's statistics; for grey pictures their mean over the colours."""
    v = [float(a) for a in values]
    return v if len(v) == channels else [sum(v) / len(v)] * channels


def backbone(m: Model, channels: int) -> Any:
    """A timm model without its classifier, with random, the hub's or a file's weights.

    Raises ConfigError for an unknown name or a file that does not fit, Unreachable when the hub does not answer.
    """
    import timm

    if not timm.is_model(m.backbone):
        raise unknown_backbone(m.backbone)
    wanted: dict[str, Any] = {"in_chans": channels, "num_classes": 0}
    if m.pool != "avg":
        wanted["global_pool"] = m.pool
    if m.drop_path_rate:
        wanted["drop_path_rate"] = m.drop_path_rate
    start = torch.get_rng_state()
    try:
        if m.pretrained and not m.weights:
            _reach_hub(m)
        if m.weights:
            overlay = {"state_dict": read_weights(Path(m.weights)), "hf_hub_id": None, "url": ""}
            net = timm.create_model(m.backbone, pretrained=True, pretrained_cfg_overlay=overlay, **wanted)
            _all_loaded(net, m, wanted, start)
        else:
            net = timm.create_model(m.backbone, pretrained=m.pretrained, **wanted)
    except (TypeError, AssertionError) as e:
        raise ConfigError(f"{m.backbone} does not take these settings", found=str(e)) from None
    except (OSError, RuntimeError, KeyError) as e:
        raise _no_weights(m, e) from None
    return net.to(memory_format=torch.channels_last)


def _all_loaded(net: nn.Module, m: Model, wanted: dict[str, Any], start: Tensor) -> None:
    """Raise ConfigError when weights are still the random ones that `start` leads to: some timm models load what fits.

    Names cannot tell: timm renames those of older files while it loads.
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(start)
        fresh = dict(timm.create_model(m.backbone, pretrained=False, **wanted).named_parameters())
    matrices = {k: p for k, p in net.named_parameters() if p.dim() > 1 and bool((p != p.flatten()[0]).any())}
    left = [k for k, p in matrices.items() if torch.equal(p, fresh[k])]
    if left:
        raise ConfigError(
            f"{m.weights} does not fit {m.backbone}",
            found=f"it lacks {len(left)} of {len(matrices)} weights, such as {left[0]}",
            next="name the backbone that the file was made for",
        )


def unknown_backbone(name: str) -> ConfigError:
    import timm

    close = get_close_matches(name, timm.list_models(), n=3)
    return ConfigError(
        f"timm has no backbone {name!r}",
        found=f"close ones: {', '.join(close)}" if close else "",
        next='names: `python -c "import timm; print(*timm.list_models())"`',
    )


def _reach_hub(m: Model) -> None:
    """Fail within ten seconds: the hub's own client tries for a minute. Weights in its cache need no hub."""
    import httpx
    import huggingface_hub as hub
    import timm

    repo = timm.get_pretrained_cfg(m.backbone).hf_hub_id
    names = ("model.safetensors", "pytorch_model.bin")
    if not repo or any(isinstance(hub.try_to_load_from_cache(repo, n), str) for n in names):
        return
    if hub.is_offline_mode():
        raise OSError("HF_HUB_OFFLINE is set and the weights are not in the hub's cache")
    try:
        httpx.head(f"{hub.constants.ENDPOINT}/{repo}/resolve/main/config.json", timeout=10)
    except httpx.HTTPError as e:
        raise OSError(f"{hub.constants.ENDPOINT} does not answer: {e}") from None


def _no_weights(m: Model, e: Exception) -> Exception:
    reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
    if m.weights:
        return ConfigError(
            f"{m.weights} does not fit {m.backbone}",
            found=reason,
            next="name the backbone that the file was made for",
        )
    return Unreachable(
        f"the weights of {m.backbone} cannot be had from the hub",
        found=reason,
        next="give a file: model.weights=FILE.safetensors, or train from random weights: model=small",
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors or torch file; nothing in it can run code. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"model.weights={path} is not a file", next="give a .safetensors or .pt file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # safetensors, pickle and zip each raise their own
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise ConfigError(f"{path} cannot be read as weights", found=reason) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"{path} holds no state dict", found=type(state).__name__)
    return state
