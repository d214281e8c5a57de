"""Measurements as people have them: tables in every form, and what is refused."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from proj.errors import InputError, InputTooLarge, UnsupportedInput
from proj.preprocess import series, spec
from proj.preprocess.series import decode
from proj.preprocess.spec import SeriesSpec

SPEC = SeriesSpec(steps=3, channels=("Fx", "Fy"))
X = np.array([[1, 2], [-3.5, 4], [5, 6e3]], np.float32)
BODY = "1,2\n-3.5,4\n5,6e3\n"


def npy(x: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def fails(source: Any, match: str, kind: type[InputError] = InputError, of: SeriesSpec = SPEC) -> None:
    with pytest.raises(kind, match=match) as caught:
        decode(source, of)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "source",
    [
        X,
        X.astype(np.float64),
        np.asfortranarray(X),
        X.tolist(),
        [tuple(row) for row in X.tolist()],
        list(X),
        {"Fx": [1, -3.5, 5], "Fy": [2, 4, 6e3]},
        {"Fy": X[:, 1], "time": ["a", "b", "c"], "Fx": X[:, 0]},
        npy(X),
        npy(X.astype(">f8")),
        npy(np.asfortranarray(X)),
        BODY.encode(),
        BODY.replace(",", ";").encode(),
        BODY.replace(",", "\t").encode(),
        BODY.replace("\n", "\r\n").encode(),
        BODY.replace("\n", "\r").encode(),
        ("\n" + BODY.replace("\n", "\n\n").replace(",", " , ")).encode(),
        b"Fx,Fy\n" + BODY.encode(),
        b"\xef\xbb\xbfFx,Fy\n" + BODY.encode(),
        b'"Fx","Fy"\n"1","2"\n-3.5,4\n5,6e3',
        b"t;Fy;note;Fx\n0;2;a;1\n1;4;;-3.5\n2;6e3;b;5\n",
        b",Fx,Fy\n0,1,2\n1,-3.5,4\n2,5,6000",
    ],
)
def test_every_form_gives_the_same_window(source: Any) -> None:
    x = decode(source, SPEC)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert np.array_equal(x, X)


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.txt"])
def test_a_file_is_read_by_what_is_in_it(tmp_path: Path, name: str) -> None:
    for content in (BODY.encode(), npy(X)):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(decode(tmp_path / name, SPEC), X)


def test_one_channel_needs_no_inner_lists() -> None:
    one = SeriesSpec(steps=3, channels=("Fx",))
    for source in ([1, 2, 3], np.array([1, 2, 3]), b"1\n2\n3\n", b"Fx\n1\n2\n3", {"Fx": [1, 2, 3]}):
        assert decode(source, one).tolist() == [[1], [2], [3]]


def test_a_decoded_window_passes_unchanged() -> None:
    assert np.array_equal(decode(decode(X, SPEC), SPEC), X)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (X[:2], "has 2 steps; the model takes 3 steps of 2 channels"),
        (np.zeros((3, 5)), "has 5 channels; the model takes 3 steps of 2 channels \\(Fx, Fy\\)"),
        (np.zeros((1, 3, 2)), "no table of steps and channels"),
        (np.zeros(()), "no table"),
        (np.array([["a", "b"]] * 3), "no number"),
        (np.zeros((3, 2), complex), "no number"),
        (np.zeros((3, 2), object), "no number"),
        (np.zeros((3, 2), bool), "no number"),
        ([], "no table of steps"),
        ([[]], "1 steps"),
        ([[1, 2], [3], [4, 5]], "not every step has as many values"),
        ([[1, 2], [3, None], [4, 5]], "no number; None"),
        ([[1, 2], [3, True], [4, 5]], "no number; True"),
        ([[1, 2], [3, "4"], [4, 5]], "no number; '4'"),
        ([[1, 2], [3, 10**400], [4, 5]], "too large"),
        ([[1, 2], [3, 1e39], [4, 5]], "step 2 of Fy is no finite number; 1e\\+39 does not fit"),
        ([[1, 2], [3, 4], [float("nan"), 5]], "step 3 of Fx is no finite number; nan"),
        ([[1, 2], [3, float("-inf")], [4, 5]], "no finite number; -inf"),
        ("1,2", "a list of steps"),
        (None, "a list of steps"),
        ({1, 2}, "a list of steps"),
        ({"Fx": [1, 2, 3]}, "lacks the channel Fy; it has Fx"),
        ({"Fx": [1, 2, 3], "FY": [1, 2, 3]}, "did you mean 'FY' for 'Fy'"),
        ({}, "lacks the channels Fx, Fy; it is empty"),
        ({"Fx": [1, 2, 3], "Fy": [1, 2]}, "the channel Fy has 2 steps"),
        ({"Fx": [1, 2, 3], "Fy": 1}, "a list of steps"),
        ({"Fx": [1, 2, 3], "Fy": ["1", "2", "3"]}, "no number; '1'"),
        ({"Fx": [1, 2, 3], "Fy": [[1], [2], [3]]}, "no list of numbers"),
        (b"", "empty"),
        (b" \n\r\n", "empty"),
        (b",,\n,,\n", "empty"),
        (b"1,2\n3,4\n", "has 2 steps"),
        (b"1,2\n3,4\n5,6\n7,8\n", "has 4 steps"),
        (b"1,2,3\n" * 3, "has 3 channels"),
        (b"1,2\n3,4\n5\n", "row 3 has 1 columns; the first has 2"),
        (b"1,2\n3,\n5,6\n", "row 2, column 2 is no number"),
        (b"1,x\n3,4\n5,6\n", "row 1, column 2 is no number; 'x'"),
        (b"1,5;2,5\n1,5;2,5\n1,5;2,5\n", "row 1, column 1 is no number; '1,5'; decimals are written with a point"),
        (b"Fx;Fy\n1,5;2\n1;2\n1;2\n", "row 2, column Fx is no number; '1,5'; decimals"),
        (b"1_0,2\n3,4\n5,6\n", "'1_0'"),
        (b"1,2\nnan,4\n5,6\n", "step 2 of Fx is no finite number"),
        (b"Fx,Fz\n" + BODY.encode(), "lacks the channel Fy; it has Fx, Fz"),
        (b"a,b\n" + BODY.encode(), "lacks the channels Fx, Fy"),
        (b"Fx,Fy,Fx\n1,2,3\n1,2,3\n1,2,3\n", "names 'Fx' twice"),
        (b'1,"2\n3,4\n5,6\n', "cannot be read"),
        (b"9" * 200_000, "cannot be read"),
        (npy(X)[:-3], "cut off"),
        (npy(X)[:20], "a .npy that cannot be read"),
        (npy(np.zeros((3, 2), "U1")), "no number"),
        (npy(np.zeros(3, [("Fx", "f4"), ("Fy", "f4")])), "no number"),
        (npy(np.array([[{}, 1]] * 3, object)), "a .npy that cannot be read"),
    ],
)
def test_what_is_refused_says_what_was_found(source: Any, match: str) -> None:
    fails(source, match)


def test_pictures_and_the_like_are_of_another_kind() -> None:
    for content in (b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xd8\xff\xe0", b"1,2\0\n", pickle.dumps(X), b"PK\x03\x04\xff"):
        fails(content, "neither a CSV in UTF-8 nor a .npy", UnsupportedInput)


def test_a_header_that_promises_more_than_there_is_takes_no_memory() -> None:
    start = npy(np.zeros((3, 2), np.float32)).replace(b"(3, 2), }", b"(10**9,)}").replace(b"10**9", b"9" * 5)
    fails(start, "cut off|cannot be read")
    huge = npy(np.zeros((3, 1111111), np.int8))[:200].replace(b"1111111", b"9999999").replace(b"|i1", b"<f8")
    fails(huge, "needs more than its 200 bytes")


def test_deep_nesting_and_size_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep: list[Any] = [1.0]
    for _ in range(5000):
        deep = [deep]
    fails(deep, "no table")
    monkeypatch.setattr(series, "MAX_BYTES", 10)
    (tmp_path / "a.csv").write_text(BODY)
    for source in (BODY.encode(), tmp_path / "a.csv"):
        fails(source, "17 bytes; the limit is 10", InputTooLarge)


def test_files_that_are_none(tmp_path: Path) -> None:
    fails(tmp_path / "none.csv", "no file")
    fails(tmp_path, "is a folder")
    fails(Path("a\0b.csv"), "cannot be read")


def test_the_spec_survives_json() -> None:
    for s in (SPEC, SeriesSpec(steps=10, channels=("a", "b", "c"), normalise="window")):
        again = spec.read("series", {**s.to_dict(), "channels": list(s.channels)})
        assert again == s
        assert again.shape == s.shape


FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
WINDOWS = stn.arrays(np.float32, (3, 2), elements=FINITE)


@given(WINDOWS, st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_what_is_written_is_read(x: Any, mark: str, end: str, header: bool, turned: bool) -> None:
    order = [1, 0] if header and turned else [0, 1]
    lines = [mark.join(SPEC.channels[i] for i in order)] * header
    lines += [mark.join(repr(float(row[i])) for i in order) for row in x]
    assert np.array_equal(decode(end.join(lines).encode(), SPEC), x)
    assert np.array_equal(decode(npy(x), SPEC), x)
    assert np.array_equal(decode(x.tolist(), SPEC), x)


def answers(source: Any) -> None:
    """A window, or an error of ours: nothing else."""
    try:
        x = decode(source, SPEC)
    except InputError:
        return
    assert x.shape == (3, 2)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["Fx", "Fy", "t"]), inner),
    max_leaves=12,
)


@settings(max_examples=150)
@given(JSON)
def test_any_json_is_answered(source: Any) -> None:
    answers(source)


@settings(max_examples=150)
@given(st.binary(max_size=60) | st.text("0123456789.,;\t\n\r-einfa\"_' Fxy", max_size=60).map(str.encode))
@example(b'"')
@example(b"1e999,2\n3,4\n5,6")
def test_any_bytes_are_answered(source: bytes) -> None:
    answers(source)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_broken_npy_is_answered(data: st.DataObject) -> None:
    whole = bytearray(npy(X))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(6, len(whole) - 1))] = data.draw(st.integers(0, 255))
    answers(bytes(whole[: data.draw(st.integers(6, len(whole)))]))


@given(stn.arrays(stn.scalar_dtypes(), stn.array_shapes(max_dims=3, max_side=3)))
def test_any_array_is_answered(x: Any) -> None:
    answers(x)
    answers(npy(x))
