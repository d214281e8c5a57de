"""Texts: what is taken for one, what cleaning leaves of it, and the ids that it becomes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proj.errors import InputError, InputTooLarge, UnsupportedInput
from proj.preprocess import ngrams, spec, text
from proj.preprocess.spec import PAD, TextSpec
from proj.preprocess.text import clean, ids

PLAIN = TextSpec()
BOTH = TextSpec(fields=("title", "text"), drop=("Reuters", "Associated Press", "AP", "AFP", "Getty Images"))
GOLDEN = [
    6,
    22,
    30,
    53,
    153,
    313,
    352,
    365,
    390,
    463,
    532,
    539,
    628,
    675,
    722,
    759,
    783,
    827,
    876,
    905,
    939,
    973,
]  # of "The cat sat."
HASHED = TextSpec(encoding="hash", max_tokens=500, buckets=1000, word_ngrams=2, char_ngrams=(3, 5))


# --- what is taken


def test_every_form_of_one_text_is_the_same(tmp_path: Path) -> None:
    said = "Zwölf Männer — and 3 dogs"
    file = tmp_path / "a.TXT"
    file.write_bytes(b"\xef\xbb\xbf" + said.encode())
    forms: list[Any] = [said, said.encode(), file, {"text": said}, {"title": "", "text": said}]
    assert {clean(f, BOTH) for f in forms} == {said}


def test_fields_are_joined_in_the_specs_order() -> None:
    assert clean({"text": "b", "title": "a"}, BOTH) == "a b"
    assert clean({"title": "a"}, BOTH) == "a"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ({}, "empty"),
        ({"title": " ", "text": ""}, "empty"),
        ("<br/>&nbsp;\u200b", "nothing is left"),
        ("(Reuters)", "nothing is left"),
        ({"headline": "a"}, "headline; its fields are title, text"),
        ({"text": 3}, "the field text is not text; int"),
        ({"text": None}, "NoneType"),
        ({"text": ["a"]}, "list"),
        (b"caf\xe9 au lait", "not UTF-8; byte 3 is 0xe9"),
        (3.5, "not a text; float"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_text_is_an_input_error(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        clean(given, BOTH)


def test_files_of_other_kinds_and_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(UnsupportedInput, match=r"\.docx.*give a \.txt"):
        clean(tmp_path / "a.docx", PLAIN)
    with pytest.raises(InputError, match="cannot be read"):
        clean(tmp_path / "none.txt", PLAIN)


def test_a_text_beyond_the_limit_is_too_large() -> None:
    with pytest.raises(InputTooLarge):
        clean("a" * (text.MAX_CHARS + 1), PLAIN)


# --- what cleaning does


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("  a\t b\r\n\u00a0c  ", "a b c"),
        ("Tom &amp; Jerry &amp;gt; &#39;x&#39;", "Tom & Jerry > 'x'"),
        ('<p class="x">One</p><br>two <b>three</b><!-- no -->', "One two three"),
        ("a<script>var x = 1;</script>b", "a b"),
        ("1 < 2 and <me@x.org> and <3", "1 < 2 and <me@x.org> and <3"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u201cIt\u2019s\u201d", '"It\'s"'),
        ("a\u200bb\ufeffc\u00add", "abcd"),
        ("a\x00b\x85c", "a b c"),
    ],
)
def test_spaces_html_and_unicode_are_made_even(given: str, wanted: str) -> None:
    assert clean(given, PLAIN) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("WASHINGTON (Reuters) - The head said", "The head said"),
        ("(Reuters) - The head said", "The head said"),
        ("PALM BEACH, Fla./WASHINGTON (Reuters) - The head", "The head"),
        ("Paris (AFP) \u2013 The head", "The head"),
        ("NEW YORK, Aug 12 (AP) \u2014 The head", "The head"),
        ("WASHINGTON () - The head", "The head"),
        ("WASHINGTON (Reuters on Friday ) - The head", "The head"),
        ("(Corrects name in paragraph 2) By Ann Other and Bob Cox LONDON (Reuters) - The head", "The head"),
        ("A title in front WASHINGTON (Reuters) - The head", "A title in front The head"),
        ("WASHINGTON \u2014 " + "The head of it all said so. " * 9, ("The head of it all said so. " * 9).strip()),
        ("He told REUTERS and the associated press's man, AP too.", "He told and the man, too."),
        ("Reuters/Ipsos found @Reuters (AP) said", "/Ipsos found said"),
        ("A map and an apt APT", "A map and an apt APT"),
        ("An end.Featured image via Ann Other/Getty Images.", "An end."),
        ("An end. Photo by Ann Other/Getty Images", "An end."),
        ("The photo by her window was old. It fell.", "The photo by her window was old. It fell."),
        ("Photo by somebody", "Photo by somebody"),
        ("WATCH - he falls", "WATCH - he falls"),
    ],
)
def test_agencies_datelines_and_credits_are_dropped(given: str, wanted: str) -> None:
    assert clean(given, BOTH) == wanted


def test_nothing_is_dropped_that_was_not_asked_for() -> None:
    said = "WASHINGTON (Reuters) - The head.Featured image via Getty Images"
    assert clean(said, PLAIN) == said


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_string_is_cleaned_to_one_line_or_refused(given: str) -> None:
    try:
        done = clean(given, BOTH)
    except InputError:
        return
    assert done == " ".join(done.split())
    assert done == unicodedata.normalize("NFC", done)
    done.encode("utf-8")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_cleaned_or_refused(given: bytes) -> None:
    with contextlib.suppress(InputError):
        assert clean(given, BOTH)


@pytest.mark.parametrize(
    "piece", ["<", "(", "A ", "&amp;", "<a ", "By A (", "Photo by ", "<script>", "\u0301", "A.", " "]
)
def test_no_text_takes_long_to_clean(piece: str) -> None:
    """A page's field takes whatever is pasted: time grows with the length, not with its square."""
    long = (piece * text.MAX_CHARS)[: text.MAX_CHARS - 1] + "x"
    start = time.process_time()
    clean(long, BOTH)
    assert time.process_time() - start < 5


def test_the_spec_survives_a_bundle() -> None:
    whole = TextSpec(
        fields=("a", "b"), drop=("X",), encoding="hash", max_tokens=9, buckets=7, char_ngrams=(2, 4), pad=1
    )
    assert spec.read("text", json.loads(json.dumps(whole.to_dict()))) == whole


# --- hashed n-grams


def slow(said: str, words: int, chars: tuple[int, int]) -> set[str]:
    """The n-grams, one by one."""
    import re

    tokens = re.findall(r"\w+|[^\w\s]", said.lower())
    found = {" ".join(tokens[i : i + k]) for k in range(1, words + 1) for i in range(len(tokens) - k + 1)}
    whole = f" {' '.join(tokens)} "
    for k in range(chars[0], chars[1] + 1):
        grams = (whole[i : i + k] for i in range(len(whole) - k + 1))
        found |= {f"#{g}" for g in grams if " " not in g[1:-1]}
    return found


@given(st.text("abcA. \u00e9", max_size=60))
@settings(max_examples=200, deadline=None)
def test_there_is_one_number_for_each_n_gram(said: str) -> None:
    got = ngrams.hashed(said, 3, (2, 4), 2**31 - 2, 10_000)
    assert len(got) == len(slow(said, 3, (2, 4))) if said.strip() else len(got) == 0


def test_numbers_are_the_same_everywhere() -> None:
    """A bundle's weights stand at these numbers: they may never change."""
    assert ngrams.hashed("The cat sat.", 2, (3, 4), 1000, 100).tolist() == GOLDEN
    code = "from proj.preprocess import ngrams; print(ngrams.hashed('The cat sat.', 2, (3, 4), 1000, 100).tolist())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(said.stdout) == GOLDEN


def test_capitals_and_order_of_far_words_do_not_matter_but_words_do() -> None:
    a, b, c = (ids(s, HASHED).tolist() for s in ("The cat", "the CAT", "the dog"))
    assert a == b != c


def test_a_long_text_keeps_its_beginning() -> None:
    words = [f"w{i}" for i in range(400)]
    whole = set(ngrams.hashed(" ".join(words), 1, (0, 0), 2**30, 10_000).tolist())
    cut = ngrams.hashed(" ".join(words), 1, (0, 0), 2**30, 50)
    assert len(whole) == 400
    assert set(cut.tolist()) == set(ngrams.hashed(" ".join(words[:50]), 1, (0, 0), 2**30, 10_000).tolist())
    assert (np.diff(cut) > 0).all()


@given(st.text(min_size=1, max_size=100))
@settings(max_examples=200, deadline=None)
def test_ids_are_never_empty_pad_or_too_many(said: str) -> None:
    x = ids(said, HASHED)
    assert x.dtype == np.int32
    assert 1 <= len(x) <= HASHED.max_tokens
    assert x.min() > PAD
    assert x.max() <= HASHED.buckets


def test_numbers_spread_evenly() -> None:
    words = " ".join(f"word{i}" for i in range(20_000))
    got = ngrams.hashed(words, 1, (0, 0), 100, 10**6)
    assert got.tolist() == list(range(1, 101))
    many = ngrams.hashed(words, 1, (0, 0), 2**18, 10**6)
    assert len(many) == pytest.approx(2**18 * (1 - np.exp(-20_000 / 2**18)), rel=0.01)


def test_an_article_takes_a_few_milliseconds() -> None:
    rng = np.random.default_rng(0)
    article = " ".join("".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 9))) for _ in range(540))[:3000]
    wanted = TextSpec(encoding="hash", max_tokens=8192, buckets=2**18, word_ngrams=3, char_ngrams=(2, 6))
    times = []
    for _ in range(5):
        start = time.process_time()
        ids(article, wanted)
        times.append(time.process_time() - start)
    assert min(times) < 0.03


# --- tokens


def tokenizer(pad: int = 0) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<s>", "a", "b", "c", "[UNK]"]
    names.insert(pad, "[PAD]")
    made = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def test_tokens_in_order_and_cut_off() -> None:
    s = TextSpec(encoding="tokenizer", max_tokens=3)
    assert ids("b a c a", s, tokenizer()).tolist() == [3, 2, 4]
    assert ids("zzz", s, tokenizer()).tolist() == [5]


def test_a_token_of_nothing_written_out_is_left_out() -> None:
    s = TextSpec(encoding="tokenizer", max_tokens=9)
    assert ids("a [PAD] b", s, tokenizer()).tolist() == [2, 3]
    assert ids("[PAD]", s, tokenizer()).tolist() == [text.UNKNOWN]


def test_another_id_of_nothing_changes_places_with_ours() -> None:
    s = TextSpec(encoding="tokenizer", max_tokens=9, pad=1)
    assert ids("<s> a [PAD] b", s, tokenizer(pad=1)).tolist() == [1, 2, 3]


def test_a_spec_without_an_encoding_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="encoding none"):
        ids("a", PLAIN)


@pytest.mark.parametrize("text", ["A" * 900_000, "A " * 400_000, "(" * 400_000, "WASHINGTON (" * 60_000])
def test_a_long_text_is_cleaned_in_seconds(text: str) -> None:
    # It runs in the thread that answers: a slow pattern would let one request stall a server.
    start = time.process_time()
    clean(text, TextSpec(fields=("title", "text"), drop=("Reuters", "AP")))
    assert time.process_time() - start < 10
