"""Pretrained language models of the transformers library: their tokenizer, their encoder, and where both come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from proj.errors import ConfigError, ProjError, Unreachable
from proj.preprocess.spec import PAD
from proj.train.transformer import mask_of, masked_mean

if TYPE_CHECKING:
    from proj.config import Model

Tensor = torch.Tensor
FILES = ["config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model", "*.safetensors"]
REACH_S = 10.0  # to find out that the hub does not answer


class Language(nn.Module):
    """Ids int (B, L) to features (B, F): the mean over the text of what the last layer says of each id."""

    def __init__(self, model: Any, pad: int) -> None:
        """`pad`: the model's own id of nothing, which `preprocess.text.ids` exchanges with PAD."""
        super().__init__()
        self.model, self.pad = model, pad
        self.width: int = model.config.hidden_size

    def front(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        mask = mask_of(x)
        own = x.long()
        if self.pad != PAD:
            own = torch.where(own == PAD, self.pad, torch.where(own == self.pad, PAD, own))
        return masked_mean(self.model(input_ids=own, attention_mask=mask.long()).last_hidden_state, mask)


def encoder(m: Model, pad: int) -> Language:
    """The model of a folder or of the hub, with its weights, from safetensors alone.

    Raises Unreachable (hub), ConfigError (no model, no safetensors, code of its own).
    """
    where = folder(m)
    from transformers import AutoModel

    with _in_our_words(m):
        # Eager attention: the one form that every version exports with free lengths.
        model = AutoModel.from_pretrained(
            where, local_files_only=True, use_safetensors=True, trust_remote_code=False, attn_implementation="eager",
            dtype=torch.float32,
        )  # fmt: skip
    if getattr(model.config, "is_encoder_decoder", False):
        raise ConfigError(f"{_name(m)} is no encoder", found=model.config.model_type, next="name one such as BERT")
    return Language(model, pad)


def bare(architecture: Path, pad: int) -> Language:
    """A model with random weights, made as the config.json in this folder says: its checkpoint has the real ones."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(architecture, local_files_only=True, trust_remote_code=False)
    return Language(AutoModel.from_config(config, attn_implementation="eager").float(), pad)


def tokenizer(m: Model) -> tuple[Any, int, int]:
    """(tokenizers.Tokenizer that cuts texts off, its id of nothing, how many ids the model takes at most)."""
    where = folder(m)  # first: the library takes seconds to import
    from transformers import AutoConfig, AutoTokenizer

    with _in_our_words(m):
        theirs = AutoTokenizer.from_pretrained(where, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(where, local_files_only=True, trust_remote_code=False)
    made, pad = getattr(theirs, "backend_tokenizer", None), theirs.pad_token_id
    if made is None or pad is None:
        lacks = "fast tokenizer" if made is None else "id for padding"
        raise ConfigError(f"{_name(m)} has no {lacks}", next="name another model, or train one: model=small")
    # RoBERTa counts its places from the id of nothing on.
    places = getattr(config, "max_position_embeddings", m.max_tokens) - (pad + 1 if pad else 0)
    most = min(m.max_tokens, max(places, 1))
    made.no_padding()
    made.enable_truncation(most)
    return made, pad, most


def folder(m: Model) -> Path:
    """Where the model's files are: a folder of one's own, or the hub client's cache.

    Raises Unreachable within 20 s when the hub does not answer and the cache lacks them.
    """
    name = _name(m)
    path = Path(name).expanduser()
    if path.is_file() and (path.parent / "config.json").is_file():
        path = path.parent
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"{path} holds no model", found="no config.json", next="give a folder of transformers")
        return path
    if name.count("/") > 1 or name.startswith((".", "~", "/")) or path.exists():
        raise ConfigError(f"{name} is no folder of a model", next="model.backbone=FOLDER, or a name of the hub")
    return _snapshot(name)


def _name(m: Model) -> str:
    return m.weights or m.backbone or m.text


def _snapshot(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    from proj.fetch import download

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else download.answers(endpoint, REACH_S)
    try:
        found = huggingface_hub.snapshot_download(
            name, allow_patterns=FILES, endpoint=endpoint, etag_timeout=REACH_S, local_files_only=bool(why)
        )
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as e:
        raise ConfigError(f"the hub has no model {name}", found=_first_line(e), next="see model.backbone") from None
    except Exception as e:  # the client's network errors are those of whichever HTTP library its version uses
        raise Unreachable(
            f"the model {name} cannot be had from {endpoint}",
            found=why or _first_line(e),
            next="give a folder that holds it: model.backbone=FOLDER",
        ) from None
    return Path(found)


def _first_line(e: Exception) -> str:
    return next(iter(str(e).strip().splitlines()), "") or type(e).__name__


@contextmanager
def _in_our_words(m: Model) -> Iterator[None]:
    """Errors of transformers as ConfigError; its bars and notes are left out."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except ProjError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError) as e:
        raise ConfigError(
            f"{_name(m)} cannot be used",
            found=_first_line(e),
            next="it must hold config.json, tokenizer.json and model.safetensors, and need no code of its own",
        ) from None
