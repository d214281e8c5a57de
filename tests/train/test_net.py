"""`proj.train.net`: pixels, backbones and their weights, the head."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from loopback import free_port
from made_projects import weights_file

from proj.config import Model
from proj.errors import ConfigError, Unreachable
from proj.preprocess.spec import ImageSpec
from proj.train import weights
from proj.train.images import ImageEncoder, Pixels
from proj.train.net import Head, Net


def model(**values: Any) -> Model:
    return Model(**{"backbone": "test_resnet", **values})


def made(channels: int = 3, side: int = 16, outputs: int = 4, **values: Any) -> Net:
    torch.manual_seed(0)
    m = model(**values)
    spec = ImageSpec(height_px=side, width_px=side, channels=3 if channels == 3 else 1)
    encoder = ImageEncoder(m, spec, [0.25] * channels, [0.5] * channels)
    return Net(encoder, Head(encoder.width, outputs, m), frozen=m.freeze, target_mean=[], target_std=[])


def pixels(channels: int = 3, side: int = 16, n: int = 5) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, side, side, channels), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_have_one_column_a_class_and_start_at_nought(channels: int) -> None:
    y = made(channels).eval()(pixels(channels))
    assert y.shape == (5, 4)
    assert not y.any()


def test_statistics_of_the_data_normalise_a_network_from_random_weights() -> None:
    net = made()
    assert net.encoder.mean.flatten().tolist() == [0.25] * 3
    seen = []
    net.encoder.backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    net(pixels())
    assert torch.allclose(seen[0], (pixels().permute(0, 3, 1, 2) / 255 - 0.25) / 0.5)


@pytest.mark.parametrize(("size", "seen"), [(0, (12, 16)), (32, (24, 32)), (8, (6, 8))])
def test_the_longer_side_is_brought_to_the_input_size(size: int, seen: tuple[int, int]) -> None:
    p = Pixels((12, 16, 3), size)
    out = p(torch.full((2, 12, 16, 3), 51, dtype=torch.uint8))
    assert out.shape == (2, 3, *seen)
    assert torch.allclose(out, torch.tensor(0.2))


def test_the_head_standardises_by_the_training_features() -> None:
    head = Head(3, 2, Model())
    f = torch.randn(200, 3) * torch.tensor([1.0, 9.0, 0.0]) + torch.tensor([0.0, 5.0, 2.0])
    head.standardise(f)
    z = (f - head.mean) / head.std
    assert torch.allclose(z[:, :2].std(0), torch.ones(2), atol=1e-4)
    assert torch.isfinite(z).all()


def test_drop_rate_drops_only_while_training() -> None:
    net = made(drop_rate=0.5)
    torch.nn.init.ones_(net.head.linear.weight)
    f = torch.ones(1, net.head.mean.numel())
    assert not torch.equal(net.head(f), net.head(f))
    net.eval()
    assert torch.equal(net(pixels()), net(pixels()))


def test_drop_path_reaches_the_backbone() -> None:
    from timm.layers import DropPath

    # timm makes no drop path before the first block, whose rate is 0 of the linear ramp.
    rates = [m.drop_prob for m in made(drop_path_rate=0.3).encoder.backbone.modules() if isinstance(m, DropPath)]
    assert rates
    assert max(rates) == pytest.approx(0.3)


def test_pool_reaches_the_backbone() -> None:
    assert made(pool="catavgmax").head.mean.numel() == 2 * made().head.mean.numel()


# --- modes


def test_the_backbone_trains_after_construction() -> None:
    # It once stayed in evaluation mode after the probe of its width, and batch norm never learned.
    net = made()
    assert all(m.training for m in net.modules())
    net.eval().train()
    assert net.encoder.backbone.training


def test_a_frozen_backbone_stays_in_evaluation_mode() -> None:
    net = made(freeze=True)
    net.train()
    assert net.head.training
    assert not any(m.training for m in net.encoder.backbone.modules())
    assert not any(p.requires_grad for p in net.encoder.backbone.parameters())
    before = {k: v.clone() for k, v in net.encoder.backbone.state_dict().items()}
    net(pixels())
    assert all(torch.equal(v, before[k]) for k, v in net.encoder.backbone.state_dict().items())


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_100"])
def test_frozen_features_do_not_depend_on_the_neighbours(name: str) -> None:
    net = made(1, 8, backbone=name, freeze=True, input_size_px=32).eval()
    x = net.front(pixels(1, 8, 77))
    whole = net.encode_frozen(x)
    order = torch.randperm(77)
    assert torch.equal(net.encode_frozen(x[order]), whole[order])
    assert torch.equal(torch.cat([net.encode_frozen(x[i : i + 10]) for i in range(0, 77, 10)]), whole)
    assert torch.allclose(whole, net.encode(x), atol=1e-4)


# --- weights


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_come_from_a_file(tmp_path: Path, name: str, pretrained: bool) -> None:
    file = weights_file(tmp_path, name=name)
    net = made(weights=str(file), pretrained=pretrained)
    want = weights.read_weights(file)
    got = net.encoder.backbone.state_dict()
    assert got
    assert all(torch.equal(v, want[k]) for k, v in got.items())
    # The normalisation is then the pretrained model's own.
    cfg = timm.get_pretrained_cfg("test_resnet")
    assert net.encoder.mean.flatten().tolist() == pytest.approx(list(cfg.mean))


def test_a_checkpoint_with_a_state_dict_inside_is_read(tmp_path: Path) -> None:
    want = weights.read_weights(weights_file(tmp_path))
    torch.save({"state_dict": want, "epoch": 3}, tmp_path / "ckpt.pth")
    assert weights.read_weights(tmp_path / "ckpt.pth").keys() == want.keys()


def test_weights_for_colour_serve_grey_pictures(tmp_path: Path) -> None:
    file = weights_file(tmp_path)
    net, want = made(1, weights=str(file)), weights.read_weights(file)
    first = next(k for k, v in want.items() if v.dim() == 4)
    got = net.encoder.backbone.state_dict()[first]
    assert got.shape[1] == 1
    assert torch.allclose(got, want[first].sum(1, keepdim=True))
    cfg = timm.get_pretrained_cfg("test_resnet")
    assert net.encoder.mean.flatten().tolist() == pytest.approx([sum(cfg.mean) / 3])


class _Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def test_a_file_with_code_in_it_is_refused_and_does_not_run(tmp_path: Path) -> None:
    file, ran = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"state_dict": _Code(ran)}, file)
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        made(weights=str(file))
    file.write_bytes(pickle.dumps(_Code(ran)))
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        made(weights=str(file))
    assert not ran.exists()


BAD: dict[str, tuple[str, bytes]] = {
    "empty": ("w.pt", b""),
    "text": ("w.pt", b"hello"),
    "empty safetensors": ("w.safetensors", b""),
    "text safetensors": ("w.safetensors", b"hello hello hello"),
    "HTML": ("w.safetensors", b"<!doctype html><html>not found</html>"),
    "a huge header": ("w.safetensors", b"\xff" * 64),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_broken_weights_file_is_a_config_error(tmp_path: Path, kind: str) -> None:
    name, content = BAD[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        made(weights=str(tmp_path / name))


def test_no_weights_file_is_a_config_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ConfigError, match="is not a file"):
            made(weights=str(path))


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"a": 1}], ids=["tensor", "list", "numbers"])
def test_a_file_without_a_state_dict_is_a_config_error(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="holds no state dict"):
        made(weights=str(tmp_path / "w.pt"))


def test_another_backbones_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights\.safetensors does not fit test_vit; .*; name the backbone"):
        made(backbone="test_vit", weights=str(weights_file(tmp_path)), side=160)


def test_an_unknown_backbone_names_close_ones() -> None:
    with pytest.raises(ConfigError, match=r"no backbone 'resnet5'; close ones: .*resnet50"):
        made(backbone="resnet5")


def test_a_setting_that_the_backbone_does_not_take_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        made(backbone="test_vit", pool="catavgmax", side=160)


# --- the hub


@pytest.mark.parametrize(("backbone", "channels"), [("test_vit", 1), ("test_resnet", 1), ("test_efficientnet", 3)])
def test_a_file_that_fits_is_never_taken_for_another(tmp_path: Path, backbone: str, channels: int) -> None:
    torch.manual_seed(5)
    torch.save(timm.create_model(backbone, pretrained=False).state_dict(), tmp_path / "w.pt")
    made(channels, backbone=backbone, weights=str(tmp_path / "w.pt"), side=160)


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        held: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                return

        threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1]
        for s in held:
            s.close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The hub's client with an empty cache."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return monkeypatch


def test_a_hub_that_is_not_there_is_unreachable_at_once(hub: pytest.MonkeyPatch) -> None:
    hub.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    start = time.monotonic()
    with pytest.raises(Unreachable, match=r"test_resnet .* model\.weights=FILE"):
        made(pretrained=True)
    assert time.monotonic() - start < 20  # its own client would try for a minute


@pytest.mark.slow
def test_a_hub_that_says_nothing_is_unreachable_within_twenty_seconds(hub: pytest.MonkeyPatch, silent: int) -> None:
    hub.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent}")
    start = time.monotonic()
    with pytest.raises(Unreachable, match=r"model\.weights=FILE"):
        made(pretrained=True)
    assert time.monotonic() - start < 20


def test_a_hub_told_to_be_offline_is_unreachable(hub: pytest.MonkeyPatch) -> None:
    hub.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE"):
        made(pretrained=True)


# The imports take long on a busy machine, and are not what is timed.
TIMED = """
import atexit, sys, time
import pytorch_lightning, timm, torchmetrics
atexit.register(lambda start=time.monotonic(): print(time.monotonic() - start, file=sys.stderr))
from proj import cli
cli.main()
"""


@pytest.mark.slow
def test_the_command_says_so_within_twenty_seconds(tmp_path: Path) -> None:
    env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}", "HF_HOME": str(tmp_path / "hf")}
    words = ["task=trashnet", "data.source=sample", "model=pretrained", "model.backbone=mobilenetv2_100", "--fast"]
    done = subprocess.run(
        [sys.executable, "-c", TIMED, "train", *words],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "model.weights=FILE.safetensors" in done.stderr
    assert "model=small" in done.stderr
    assert "Traceback" not in done.stderr
    assert float(done.stderr.split()[-1]) < 40, done.stderr  # of which the hub has less than 20
