"""`proj.data.split`: groups stay together, keep their place, and no split is empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proj.data import split
from proj.data.split import TEST, TRAIN, VAL
from proj.errors import DataError

Groups = list[str]
some_groups = st.lists(st.integers(0, 40).map(str), min_size=4, max_size=200).filter(lambda g: len(set(g)) >= 4)
seeds = st.integers(0, 2**31)


def straddling(groups: Groups, made: split.Split) -> list[str]:
    return [g for g in set(groups) if len({int(s) for s, own in zip(made, groups, strict=True) if own == g}) > 1]


@given(groups=some_groups, seed=seeds)
@settings(deadline=None)
def test_groups_never_straddle_splits_and_none_is_empty(groups: Groups, seed: int) -> None:
    for make in (split.by_hash, split.by_tail):
        made = make(groups, seed=seed, val_share=0.15, test_share=0.15)
        assert made.dtype == np.uint8
        assert straddling(groups, made) == []
        if make is split.by_hash or len(set(groups[-max(1, round(0.15 * len(groups))) :])) < len(set(groups)) - 1:
            assert set(made.tolist()) == {TRAIN, VAL, TEST}


@given(groups=some_groups, seed=seeds, k=st.integers(2, 4))
@settings(deadline=None)
def test_folds_cover_every_group_once_and_each_has_all_three_parts(groups: Groups, seed: int, k: int) -> None:
    try:
        made = split.folds(groups, k, seed=seed, val_share=0.15)
    except DataError:  # one group has most of the rows: a fold tests all the others
        assume(max(groups.count(g) for g in groups) < len(groups) / k)
        assume(len(set(groups)) > 2 * k)
        raise
    tested = sum((m == TEST).astype(int) for m in made)
    assert (tested == 1).all()
    for m in made:
        assert straddling(groups, m) == []
        assert set(m.tolist()) == {TRAIN, VAL, TEST}


def test_a_fold_leaves_a_group_to_train_and_one_to_validate_on() -> None:
    made = split.folds(["0", "1", "1", "1", "2", "3", "4"], 2, seed=2, val_share=0.15)
    assert all(set(m.tolist()) == {TRAIN, VAL, TEST} for m in made)


def test_a_group_stays_where_it_is_when_data_grow() -> None:
    old = [f"dish {i}" for i in range(200)]
    new = [f"dish {i}" for i in range(-300, 500)]
    before = dict(zip(old, split.by_hash(old, seed=3, val_share=0.2, test_share=0.2).tolist(), strict=True))
    after = dict(zip(new, split.by_hash(new, seed=3, val_share=0.2, test_share=0.2).tolist(), strict=True))
    assert {g: after[g] for g in old} == before


def test_places_are_as_they_were_written_down_once() -> None:
    # A change here would move groups of every data set there is from one split to another.
    assert [round(split.place(seed, g), 9) for seed, g in ((0, "a"), (0, "block 7"), (1, "a"))] == [
        0.371500062,
        0.966923432,
        0.014302931,
    ]


def test_shares_are_met_on_average_and_seeds_differ() -> None:
    groups = [str(i) for i in range(5000)]
    made = split.by_hash(groups, seed=0, val_share=0.15, test_share=0.25)
    shares = np.bincount(made, minlength=3) / len(groups)
    assert shares == pytest.approx([0.6, 0.15, 0.25], abs=0.02)
    assert (made != split.by_hash(groups, seed=1, val_share=0.15, test_share=0.25)).mean() > 0.3


def test_folds_have_nearly_equal_sizes() -> None:
    groups = [str(i) for i in range(100) for _ in range(1 + i % 7)]
    sizes = [int((m == TEST).sum()) for m in split.folds(groups, 5, seed=0, val_share=0.15)]
    assert sum(sizes) == len(groups)
    assert max(sizes) - min(sizes) <= 7


def test_a_folds_validation_is_not_eaten_by_its_test() -> None:
    # Six groups: the ones that fall into validation by hash are often in the very fold that is tested.
    for seed in range(30):
        for m in split.folds(list("abcdef"), 3, seed=seed, val_share=0.1):
            assert set(m.tolist()) == {TRAIN, VAL, TEST}


def test_the_tail_is_the_last_rows_with_whole_groups() -> None:
    groups = [f"block {i // 10}" for i in range(1000)]
    made = split.by_tail(groups, seed=0, val_share=0.15, test_share=0.2)
    assert (made[800:] == TEST).all()
    assert not (made[:800] == TEST).any()
    assert (made == VAL).mean() == pytest.approx(0.15, abs=0.06)
    cut = split.by_tail(groups, seed=0, val_share=0.15, test_share=0.195)  # in the middle of a block
    assert np.array_equal(cut, made)


def test_a_tail_shorter_than_one_row_is_the_last_group() -> None:
    made = split.by_tail(["d", "c", "b", "a"], seed=0, val_share=0.3, test_share=0.1)
    assert made[3] == TEST
    assert (made[:3] != TEST).all()


@pytest.mark.parametrize("groups", [["a"], ["a", "a", "b"], []])
def test_too_few_groups_are_an_error(groups: Groups) -> None:
    with pytest.raises(DataError, match="too few groups"):
        split.by_hash(groups, seed=0, val_share=0.15, test_share=0.15)


def test_more_folds_than_groups_are_an_error() -> None:
    with pytest.raises(DataError, match="needs 5 groups; the data have 3"):
        split.folds(["a", "b", "c", "a"], 5, seed=0, val_share=0.15)


def test_three_groups_are_enough() -> None:
    assert sorted(split.by_hash(["a", "b", "c"], seed=0, val_share=0.01, test_share=0.01).tolist()) == [0, 1, 2]
