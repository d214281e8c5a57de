"""Texts to ids: what trains a tokenizer, what is kept on disk, and batches of rows of different length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proj.config import Model
from proj.preprocess import text
from proj.preprocess.spec import PAD, TextSpec
from proj.train import tokens
from proj.train.tokens import Ragged, tokenise

TEXTS = [f"The {w} cat number {i} sat on the mat" for i, w in enumerate(["red", "blue", "green", "old"] * 10)]
TRAIN = np.arange(30)
SMALL = Model(text="transformer", vocabulary=320, max_tokens=20)


def test_rows_are_filled_up_to_the_longest_of_their_batch() -> None:
    ids = Ragged(np.array([1, 2, 3, 4, 5, 6], np.int32), np.array([0, 3, 4, 6]))
    assert len(ids) == 3
    assert ids[np.array([0, 1])].tolist() == [[1, 2, 3], [4, PAD, PAD]]
    assert ids[[2, 1]].tolist() == [[5, 6], [4, PAD]]
    assert ids[np.array([1])].dtype == np.int32
    assert ids[np.array([], int)].shape == (0, 1)


@pytest.mark.parametrize("name", ["transformer", "linear"])
def test_ids_are_those_of_the_function_that_the_server_calls(name: str) -> None:
    ids, spec, tokenizer = tokenise(Model(text=name, vocabulary=320), TextSpec(), TEXTS, TRAIN, None)
    assert spec.encoding == ("hash" if name == "linear" else "tokenizer")
    assert (tokenizer is None) == (name == "linear")
    for i in (0, 17, 39):
        assert ids[[i]][0].tolist() == text.ids(TEXTS[i], spec, tokenizer).tolist()


def test_a_tokenizer_learns_from_the_training_rows_alone() -> None:
    texts = [*TEXTS[:30], *["zyxwv zyxwv zyxwv"] * 10]
    _, _, a = tokenise(SMALL, TextSpec(), texts, TRAIN, None)
    _, _, b = tokenise(SMALL, TextSpec(), TEXTS, TRAIN, None)
    assert a.to_str() == b.to_str()
    _, _, c = tokenise(SMALL, TextSpec(), texts, np.arange(40), None)
    assert any("zyxwv" in t for t in c.get_vocab())
    assert not any("zyxwv" in t for t in a.get_vocab())


def test_equal_texts_give_an_equal_tokenizer_in_another_process() -> None:
    code = (
        "import sys, json; from proj.train import tokens; "
        "print(tokens.train(json.loads(sys.stdin.read()), 400, 20).to_str())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(TEXTS), capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(said.stdout) == json.loads(tokens.train(TEXTS, 400, 20).to_str())


def test_pad_is_ours_and_every_letter_is_known() -> None:
    made = tokens.train(TEXTS, 320, 5)
    assert made.token_to_id("[PAD]") == PAD
    assert made.get_vocab_size() <= 320
    spec = TextSpec(encoding="tokenizer", max_tokens=5)
    said = text.ids("Жук \U0001f600 \x01", spec, made)
    assert len(said) == 5
    assert said.min() > PAD
    assert text.ids("THE CAT", spec, made).tolist() == text.ids("the cat", spec, made).tolist()


def test_a_tokenizer_that_is_given_is_taken() -> None:
    _, spec, first = tokenise(SMALL, TextSpec(), TEXTS, TRAIN, None)
    ids, again, same = tokenise(SMALL, spec, ["another cat"], np.arange(1), None, first)
    assert same is first
    assert again == spec
    assert ids[[0]][0].tolist() == text.ids("another cat", spec, first).tolist()


def test_ids_are_kept_and_found_again(tmp_path: Path) -> None:
    a, spec, tokenizer = tokenise(SMALL, TextSpec(), TEXTS, TRAIN, tmp_path)
    (folder,) = tmp_path.iterdir()
    np.save(folder / "flat.npy", np.full_like(a.flat, 7))  # what is there is what is read
    b, _, _ = tokenise(SMALL, spec, TEXTS, TRAIN, tmp_path, tokenizer)
    assert set(b[np.arange(40)].ravel().tolist()) <= {7, PAD}
    tokenise(SMALL, spec, [*TEXTS[:-1], "other"], TRAIN, tmp_path, tokenizer)
    assert len(list(tmp_path.iterdir())) == 2
    tokenise(Model(text="linear"), TextSpec(), TEXTS, TRAIN, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert not any(p.name.startswith(".") for p in tmp_path.iterdir())
