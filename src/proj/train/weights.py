"""A timm backbone and its weights: random ones, the hub's, or a file's."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from proj.errors import ConfigError, Unreachable

if TYPE_CHECKING:
    from proj.config import Model

Tensor = torch.Tensor


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
        next="give a file: model.weights=FILE.safetensors",
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
