"""Encoders of texts: what PAD may not change, what is exported, and models that are pretrained."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback import free_port
from torch import nn

from proj import infer
from proj.config import Model
from proj.errors import ConfigError
from proj.preprocess.spec import PAD, TextSpec
from proj.train import language, texts, tokens

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "the",
    "dog",
    "ate",
    "it",
    "while",
    "nobody",
    "looked",
    "at",
    "all",
    "of",
    "them",
]
TEXTS = [" ".join(WORDS[i % 9 : i % 9 + 3 + i % 7]) for i in range(40)]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distilbert(tmp_path_factory.mktemp("distilbert"))


def distilbert(folder: Path) -> Path:
    """A DistilBERT of two layers with random weights and a tokenizer of its own, as a folder of transformers."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(WORDS))]
    made = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(names), dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=24
    )
    DistilBertModel(config).save_pretrained(folder)
    return folder


def model(name: str, pretrained: Path) -> Model:
    chosen = str(pretrained) if name == "pretrained" else name
    return Model(backbone=chosen, width=32, layers=2, vocabulary=300, max_tokens=64, buckets=5000, drop_rate=0.1)


def made(m: Model) -> tuple[nn.Module, tokens.Ragged, TextSpec]:
    torch.manual_seed(0)
    ids, spec, tokenizer = tokens.tokenise(m, TextSpec(), TEXTS, np.arange(40), None)
    encoder = texts.build(m, spec, tokenizer).eval()
    return encoder, ids, spec


NAMES = ["transformer", "convolutions", "linear", "pretrained"]


@pytest.mark.parametrize("name", NAMES)
def test_features_do_not_depend_on_a_neighbours_length(name: str, pretrained: Path) -> None:
    encoder, ids, _ = made(model(name, pretrained))
    rows = np.arange(12)
    together = encoder(encoder.front(torch.from_numpy(ids[rows])))
    assert together.shape == (12, encoder.width)
    alone = torch.cat([encoder(encoder.front(torch.from_numpy(ids[[i]]))) for i in rows])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert len({len(ids[[i]][0]) for i in rows}) > 3
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_nothing_gives_numbers(name: str, pretrained: Path) -> None:
    encoder, _, _ = made(model(name, pretrained))
    assert torch.isfinite(encoder(torch.full((2, 5), PAD, dtype=torch.int32))).all()


@pytest.mark.parametrize("name", NAMES[:3])
def test_every_encoder_learns_two_vocabularies(name: str, pretrained: Path) -> None:
    encoder, ids, _ = made(model(name, pretrained))
    encoder.train()
    y = torch.tensor(["dog" in t for t in TEXTS]).long()
    head = nn.Linear(encoder.width, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-2)
    x = torch.from_numpy(ids[np.arange(40)])
    for _ in range(30):
        loss = nn.functional.cross_entropy(head(encoder(encoder.front(x))), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encoder.eval()
    assert (head(encoder(x)).argmax(1) == y).float().mean() > 0.95
    table = next(t for t in encoder.modules() if isinstance(t, nn.Embedding))
    assert table.weight[PAD].abs().max() == 0


class _Probabilities(nn.Module):
    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.encoder.front(x))).softmax(1)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("name", ["linear", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "linear")])
def test_the_exported_graph_agrees_whatever_the_length(name: str, pretrained: Path) -> None:
    import onnxruntime as ort

    encoder, ids, _ = made(model(name, pretrained))
    net = _Probabilities(encoder).eval()
    example = torch.from_numpy(ids[np.arange(3)])
    dynamic = {"x": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    program = torch.onnx.export(
        net, (example,), input_names=["x"], output_names=["y"], dynamo=True, opset_version=20,
        dynamic_shapes=dynamic, external_data=False, verbose=False,
    )  # fmt: skip
    file = io.BytesIO()
    program.save(file)
    graph = program.model_proto
    assert {n.domain for n in graph.graph.node} <= {""}
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for rows in ([0], [6], list(range(40)), [3, 9]):
            x = ids[rows]
            got = session.run(["y"], {"x": x})[0]
            assert np.allclose(got, net(torch.from_numpy(x)).numpy(), rtol=infer.RTOL, atol=infer.ATOL)
            wide = np.pad(x, ((0, 0), (0, 4)))
            assert np.allclose(session.run(["y"], {"x": wide})[0], got, rtol=infer.RTOL, atol=infer.ATOL)
        one = np.full((1, 1), 5, np.int32)
        assert np.allclose(session.run(["y"], {"x": one})[0], net(torch.from_numpy(one)).numpy(), atol=infer.ATOL)


def test_a_width_that_heads_do_not_divide_is_a_config_error() -> None:
    m = Model(text="transformer", width=100, vocabulary=300)
    with pytest.raises(ConfigError, match=r"model\.width is 100; .*multiple of 32"):
        made(m)


# --- pretrained


def test_a_pretrained_model_brings_its_weights_tokenizer_and_length(pretrained: Path) -> None:
    from transformers import AutoModel

    encoder, ids, spec = made(model("pretrained", pretrained))
    assert (spec.max_tokens, spec.pad) == (24, 0)
    assert ids[[0]][0][0] == 2  # [CLS]
    theirs = AutoModel.from_pretrained(pretrained).eval()
    x = torch.from_numpy(ids[[4]]).long()
    with torch.no_grad():
        assert torch.allclose(encoder(x), theirs(x).last_hidden_state.mean(1), atol=1e-5)
    by_file = made(Model(backbone="distilbert-base-uncased", weights=str(pretrained / "model.safetensors")))[0]
    with torch.no_grad():
        assert torch.equal(by_file(x), encoder(x))


def test_another_id_of_nothing_is_the_models_own_again(pretrained: Path) -> None:
    from transformers import AutoModel

    theirs = AutoModel.from_pretrained(pretrained, attn_implementation="eager").eval()
    ours, moved = language.Language(theirs, 0), language.Language(theirs, 3)
    x = torch.tensor([[2, 5, 6, 0, 0]])
    swapped = torch.tensor([[2, 5, 6, 3, 7]])  # for `moved` 3 is the model's 0, and 0 its 3
    with torch.no_grad():
        wanted = ours.model(torch.tensor([[2, 5, 6, 0, 7]])).last_hidden_state.mean(1)
        assert torch.allclose(moved(swapped), wanted, atol=1e-5)
        assert torch.allclose(moved(x), moved(x[:, :3]), atol=1e-5)


@pytest.mark.parametrize(("left", "says"), [("config.json", "holds no model"), ("model.safetensors", "cannot be used")])
def test_a_folder_that_lacks_a_part(left: str, says: str, pretrained: Path, tmp_path: Path) -> None:
    for file in pretrained.iterdir():
        if file.name != left:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    if left == "model.safetensors":  # a pickle is never read
        torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=says):
        made(Model(backbone=str(tmp_path)))


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"is no folder.*model\.backbone=FOLDER"):
        language.folder(Model(backbone="./none"))


@pytest.mark.parametrize("offline", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_a_hub_that_is_not_reached(offline: str, tmp_path: Path) -> None:
    code = """
from proj.config import Model
from proj.errors import Unreachable
from proj.train import language
try:
    language.tokenizer(Model(backbone="distilbert-base-uncased"))
except Unreachable as e:
    print(e)
"""
    env = os.environ | {
        "HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}", "HF_HUB_OFFLINE": offline,
    }  # fmt: skip
    start = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert "distilbert-base-uncased cannot be had from http://127.0.0.1" in said.stdout, said.stderr
    assert "model.backbone=FOLDER" in said.stdout
    assert time.perf_counter() - start < 30
