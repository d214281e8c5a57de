"""The task `fakenews`: ISOT's two files or one with labels, copies kept together, and no publisher's name left."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proj.errors import ConfigError, DataError
from proj.preprocess import text
from proj.task import Row
from proj.tasks.fakenews import AGENCIES, TASK, Options, group

SPEC = TASK.spec(Options())


def read(source: Path, **options: str) -> list[Row]:
    return list(TASK.read(source, Options(**options)))  # type: ignore[arg-type]


def table(path: Path, *rows: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows(rows)
    return path


HEADER = ("title", "text", "subject", "date")


def isot(folder: Path, fake: str = "Fake.csv", real: str = "True.csv") -> Path:
    table(folder / fake, HEADER, ("A", "one", "News", "May 1, 2017"), ("B", "two", "politics", "May 2, 2017"))
    table(folder / real, HEADER, ("C", "ROME (Reuters) - three", "worldnews", "May 3, 2017 "))
    return folder


# --- layouts


@pytest.mark.parametrize("inside", ["", "News _dataset", "a/b"])
def test_the_two_files_of_isot_at_any_depth(inside: str, tmp_path: Path) -> None:
    rows = read(isot(tmp_path / inside).parents[inside.count("/")] if inside else isot(tmp_path))
    assert [(r.y, r.x) for r in rows] == [
        ("fake", {"title": "A", "text": "one"}),
        ("fake", {"title": "B", "text": "two"}),
        ("real", {"title": "C", "text": "ROME (Reuters) - three"}),
    ]
    assert len({r.id for r in rows}) == 3
    assert rows[-1].id.endswith("True.csv row 0")


def test_the_two_files_in_small_letters_beside_others(tmp_path: Path) -> None:
    isot(tmp_path, "fake.csv", "true.CSV")
    table(tmp_path / "notes.csv", ("a", "b"), ("1", "2"))
    (tmp_path / "._Fake.csv").write_bytes(b"\0")
    assert [r.y for r in read(tmp_path)] == ["fake", "fake", "real"]


def test_one_file_with_labels(tmp_path: Path) -> None:
    file = table(
        tmp_path / "posts.csv", ("id", "Text", "Label", "split"), ("7", "one", "Real", "val"), ("9", "two", "fake", "x")
    )
    rows = read(file)
    assert [(r.id, r.y, r.x) for r in rows] == [("row 0", "real", {"text": "one"}), ("row 1", "fake", {"text": "two"})]
    assert [r.id for r in read(tmp_path)] == ["posts.csv row 0", "posts.csv row 1"]


def test_subject_and_date_reach_no_model(tmp_path: Path) -> None:
    rows = read(isot(tmp_path))
    assert all("2017" not in text.clean(r.x, SPEC) for r in rows)  # type: ignore[arg-type]
    assert all(set(r.x) <= {"title", "text"} for r in rows)  # type: ignore[arg-type]


def test_other_labels_when_they_are_named(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", ("text", "verdict"), ("one", "1"), ("two", "0"))
    assert [r.y for r in read(file, label="verdict", fake="1", real="0")] == ["fake", "real"]


def test_quotes_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'\xef\xbb\xbftext,label\r\n"one, ""two""\r\nthree",real\r\n\r\nfour,fake\r\n')
    assert [r.x for r in read(file)] == [{"text": 'one, "two"\r\nthree'}, {"text": "four"}]


def test_a_cell_longer_than_pythons_own_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    file = table(tmp_path / "a.csv", ("text", "label"), ("x" * 200_000, "fake"))
    assert len(read(file)[0].x["text"]) == 200_000  # type: ignore[index, call-overload]
    assert csv.field_size_limit() == before


# --- what cannot be read


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no column text; it is empty"),
        (b"a,b\n1,2\n", "has no column text; columns a, b"),
        (b"title,text\na,b\n", r"has no column label; columns title, text; task\.label=COLUMN"),
        (b"text,label\na,1\n", r"unknown label at line 2; '1'; .*task\.fake=LABEL task\.real=LABEL"),
        (b"text,label\na,fake\nb,fake,c\n", "broken at line 3; 3 cells; its header has 2"),
        (b"text,label\na,fake\nb\n", "broken at line 3; 1 cells"),
        (b'text,label\n"a,fake\nb,real\n', "broken at line 3; unexpected end of data"),
        (b'text,label\n"a"b,fake\n', "broken at line 2"),
        (b"text,label\ncaf\xe9,fake\n", "is not UTF-8"),
        (b"text,label\na\0b,fake\nb,fak\n", "unknown label at line 3|broken at line"),
    ],
)
def test_a_broken_file_says_where_and_what_next(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read(tmp_path / "a.csv")


def test_half_of_isot_says_that_the_other_is_missing(tmp_path: Path) -> None:
    isot(tmp_path)
    with pytest.raises(
        DataError, match=r"True\.csv has no column label.*data\.source=FOLDER takes Fake\.csv and True\.csv"
    ):
        read(tmp_path / "True.csv")


def test_a_folder_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no CSV files.*Fake\.csv and True\.csv.*proj data check"):
        read(tmp_path)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_rows_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "a.csv"
    file.write_bytes(b"text,label\n" + content)
    with contextlib.suppress(DataError):
        assert all(r.y in {"fake", "real"} for r in read(file))


@pytest.mark.parametrize("wrong", [{"label": " "}, {"fake": ""}, {"fake": "Real"}])
def test_options_that_mean_nothing_are_config_errors(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"task\."):
        Options(**wrong)  # type: ignore[arg-type]


# --- groups


def test_copies_of_a_text_are_one_group() -> None:
    said = "He said: \u201cNo!\u201d  12 times https://t.co/abc"
    same = [said, said.upper(), "he said no times", "He said, no... 99 times http://x.org/1", "HE-SAID-NO-TIMES"]
    assert len({group({"title": str(i), "text": s}) for i, s in enumerate(same)}) == 1
    assert group({"text": "he said yes times"}) != group({"text": said})
    assert group({"title": "a", "text": " "}) != group({"title": "b", "text": " "})
    assert group({"title": "a", "text": ""}) == group({"text": "a"})


# --- the sample, and the real data


def test_the_sample_is_deterministic_and_has_a_vocabulary_a_class() -> None:
    a, b = TASK.sample(20, Options()), TASK.sample(20, Options())
    assert a == b
    assert {r.y for r in a} == set(TASK.names(Options()))
    assert len({text.clean(r.x, SPEC) for r in a}) == 20  # type: ignore[arg-type]


def test_without_strip_the_agency_stays() -> None:
    said = {"text": "ROME (Reuters) - three"}
    assert text.clean(said, SPEC) == "three"
    assert text.clean(said, TASK.spec(Options(strip=False))) == "ROME (Reuters) - three"


@pytest.mark.real_data
def test_no_agency_is_among_the_strongest_terms(real_data: Path) -> None:
    """By a TF-IDF model of words and pairs of words; with the agencies left in, the first term is Reuters."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = read(real_data / "fakenews/isot_articles_small.csv")
    assert len(rows) == 594

    def strongest(spec: text.TextSpec) -> list[str]:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        x = words.fit_transform([text.clean(r.x, spec) for r in rows])  # type: ignore[arg-type]
        weights = LogisticRegression(C=10).fit(x, [r.y for r in rows]).coef_[0]
        terms = words.get_feature_names_out()
        return [str(terms[i]) for i in np.argsort(-np.abs(weights))[:50]]

    names = {w.lower() for n in AGENCIES for w in (n, *n.split()) if w.lower() not in {"news", "press", "of", "the"}}
    signs = {"washington", "featured image", "image via", "photo by", "featured", "via"}
    assert "reuters" in strongest(TASK.spec(Options(strip=False)))
    found = strongest(SPEC)
    assert not [
        t for t in found if t in signs or set(t.split()) & (names - {"21st", "international", "trust", "india"})
    ]


@pytest.mark.real_data
def test_repeated_posts_are_kept_together(real_data: Path) -> None:
    rows = read(real_data / "fakenews/covid_posts.csv")
    assert len(rows) == len({r.id for r in rows}) == 8560
    assert len({r.group for r in rows}) < 8300
    assert all(text.clean(r.x, SPEC) for r in rows)  # type: ignore[arg-type]
