"""The task `nutrition`: photos and measured values, wherever a publisher puts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loguru import logger
from PIL import Image

from proj.errors import ConfigError, DataError
from proj.preprocess import views
from proj.task import Row
from proj.tasks.nutrition import TASK, Options

ECUSTFD = {"targets": ["weight_g", "volume_cm3"]}
ROWS = [  # id, seconds after the first, calories, mass, fat, carbohydrate, protein
    ("dish_1550700000", 100.5, 50, 1, 2, 3),
    ("dish_1550700240", 200, 120, 4, 5, 6),  # 4 minutes later: the plate has grown
    ("dish_1550700700", 300, 150, 7, 8, 9),  # 7 minutes and 40 seconds later
    ("dish_1550709000", 50, 20, 0, 1, 2),
]


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    found: list[str] = []
    handle = logger.add(lambda m: found.append(str(m)), level="WARNING", format="{message}")
    yield found
    logger.remove(handle)


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(path)


def table(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def dish_rows(rows: list[tuple[Any, ...]] = ROWS) -> list[str]:
    """As the data set has them: totals, then ingredients, seven columns each."""
    return [",".join(map(str, r)) + ",ingr_0000000077,almonds,20.0,115.62,9.9,4.54,4.48" for r in rows]


def read(source: Path, **options: Any) -> list[Row]:
    return list(TASK.read(source, Options(**options)))


def files(row: Row) -> list[str]:
    return [p.name for p in (row.x if isinstance(row.x, tuple) else (row.x,)) if isinstance(p, Path)]


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """Two cafes, overhead pictures with their depth, and frames of four side cameras; one dish lacks each."""
    table(tmp_path / "metadata/dish_metadata_cafe1.csv", *dish_rows(ROWS[:2]))
    table(tmp_path / "metadata/dish_metadata_cafe2.csv", *dish_rows(ROWS[2:]))
    table(tmp_path / "metadata/ingredients_metadata.csv", "ingr,id,cal/g,fat(g),carb(g),protein(g)", "egg,1,1,1,1,1")
    for dish, *_ in ROWS[:3]:
        for name in ("rgb", "depth_raw", "depth_color"):
            photo(tmp_path / f"imagery/realsense_overhead/{dish}/{name}.png")
    for dish, *_ in ROWS[1:]:
        for camera in "ABCD":
            for i in (1, 2, 10):
                photo(tmp_path / f"imagery/side_angles/{dish}/frames_sampled30/camera_{camera}_frame_{i:03d}.jpeg")
    return tmp_path


def test_the_buckets_overhead_pictures(bucket: Path) -> None:
    rows = read(bucket, angle="overhead")
    assert [r.id for r in rows] == [f"imagery/realsense_overhead/{d[0]}/rgb.png" for d in ROWS[:3]]
    assert rows[0].y == (100.5, 50.0, 1.0, 2.0, 3.0)


def test_the_buckets_side_cameras_one_frame_of_the_chosen_one(bucket: Path, warnings: list[str]) -> None:
    rows = read(bucket, angle="C")
    assert [files(r) for r in rows] == [["camera_C_frame_001.jpeg"]] * 3
    assert warnings == ["left out 1 plate without a photo\n"]


def test_the_archive_of_side_frames_with_the_rows_beside_it(bucket: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    (bucket / "imagery/side_angles").rename(archive)
    (bucket / "metadata/dish_metadata_cafe1.csv").rename(archive / "dish_metadata_cafe1.csv")
    (bucket / "metadata/dish_metadata_cafe2.csv").rename(archive / "dish_metadata_cafe2.csv")
    rows = read(archive)
    assert rows[0].id == f"{ROWS[1][0]}/frames_sampled30/camera_A_frame_001.jpeg"
    assert [r.y[0] for r in rows] == [200, 300, 50]


def test_several_cameras_of_a_dish_are_one_input(bucket: Path) -> None:
    rows = read(bucket, angle="ABCD", views=4, frames=2)
    assert len(rows) == 6
    assert files(rows[0]) == [f"camera_{c}_frame_001.jpeg" for c in "ABCD"]
    assert files(rows[1]) == [f"camera_{c}_frame_002.jpeg" for c in "ABCD"]


def test_more_views_than_the_chosen_cameras_give_is_an_error(bucket: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.views=4 .*task.angle=A with task.frames=1 are 1"):
        read(bucket, views=4)


def test_dishes_scanned_shortly_after_one_another_stay_together(bucket: Path) -> None:
    groups = [r.group for r in read(bucket, angle="A")]
    assert groups == ["dish_1550700240", "dish_1550700240", "dish_1550709000"]
    assert len({r.group for r in read(bucket, angle="A", gap_minutes=5)}) == 3
    assert [r.group for r in read(bucket, angle="overhead")] == ["dish_1550700000"] * 3  # by way of the one between


@pytest.mark.parametrize("header", [True, False])
def test_a_folder_of_photos_with_the_rows_of_dishes(tmp_path: Path, header: bool) -> None:
    for dish, *_ in ROWS:
        photo(tmp_path / f"images/{dish}.jpg")
    if header:
        lines = [",".join(map(str, (d, "cafe1", *v))) for d, *v in ROWS]
        table(
            tmp_path / "labels.csv", "dish_id,cafe,total_calories,total_mass,total_fat,total_carb,total_protein", *lines
        )
    else:
        table(tmp_path / "dish_metadata_raw.csv", *dish_rows())
    rows = read(tmp_path)
    assert [r.id for r in rows] == [f"images/{d[0]}.jpg" for d in ROWS]
    assert rows[1].y == (200.0, 120.0, 4.0, 5.0, 6.0)
    assert read(tmp_path, targets=["protein_g", "mass_g"])[0].y == (3.0, 50.0)


def test_broken_labels_are_left_out_and_counted(tmp_path: Path, warnings: list[str]) -> None:
    odd = [("dish_1", -1, 5, 1, 1, 1), ("dish_2", "nan", 5, 1, 1, 1), ("dish_3", "", 5, 1, 1, 1)]
    for dish, *_ in [*ROWS, *odd]:
        photo(tmp_path / f"{dish}.jpg")
    table(tmp_path / "dish_metadata_cafe1.csv", *dish_rows([*ROWS, *odd]), "dish_4,1,2")
    assert len(read(tmp_path)) == len(ROWS)
    assert warnings == ["left out 3 plates with labels that are missing or negative\n"]


def test_only_broken_labels_are_an_error(tmp_path: Path) -> None:
    photo(tmp_path / "dish_1.jpg")
    table(tmp_path / "rows.csv", *dish_rows([("dish_1", -1, 5, 1, 1, 1)]))
    with pytest.raises(DataError, match=r"no photo under .* has usable labels; 1 plates, 1 photos"):
        read(tmp_path)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Three side and one top photo of apple001, two of each of pear002; numbers above 9."""
    names = [f"apple001S_{i}" for i in (1, 2, 10)] + ["apple001T_1"]
    names += [f"pear002{v}_{i}" for v in "ST" for i in (9, 10)]
    for n in names:
        photo(tmp_path / f"images/{n}.jpg")
    lines = [
        f"{n}.jpg,{n.split('_')[0][:-1]},food,{'side' if 'S' in n else 'top'},{310 if 'apple' in n else 90},"
        f"{244.5 if 'apple' in n else 80}"
        for n in names
    ]
    table(tmp_path / "labels.csv", "image,object_id,type,view,volume_cm3,weight_g", *lines)
    return tmp_path


def test_photos_with_a_table_one_a_row(objects: Path) -> None:
    rows = read(objects, **ECUSTFD)
    assert len(rows) == 8
    assert {(r.group, r.y) for r in rows} == {("apple001", (244.5, 310.0)), ("pear002", (80.0, 90.0))}
    assert isinstance(rows[0].x, Path)


def test_views_pair_side_and_top_by_number_and_use_every_photo_once(objects: Path) -> None:
    rows = read(objects, views=2, **ECUSTFD)
    assert [files(r) for r in rows] == [
        ["apple001S_1.jpg", "apple001T_1.jpg"],
        ["apple001S_2.jpg", "apple001S_10.jpg"],  # there is no other photo from above
        ["pear002S_9.jpg", "pear002T_9.jpg"],
        ["pear002S_10.jpg", "pear002T_10.jpg"],
    ]
    assert rows[0].id == "images/apple001S_1.jpg + images/apple001T_1.jpg"
    assert [len(files(r)) for r in read(objects, views=3, **ECUSTFD)] == [3, 1, 3, 1]  # the last is taken again


def test_a_row_of_views_decodes_to_the_specs_shape(objects: Path) -> None:
    options = Options(views=3, height_px=4, width_px=5, **ECUSTFD)
    spec = TASK.spec(options)
    for row in TASK.read(objects, options):
        assert views.decode(row.x, spec).shape == (3, 4, 5, 3)  # type: ignore[arg-type]


def test_names_and_units_come_from_the_targets() -> None:
    assert TASK.names(Options()) == ("calories", "mass", "fat", "carbohydrate", "protein")
    assert TASK.units(Options()) == ("kcal", "g", "g", "g", "g")
    options = Options(**ECUSTFD)
    assert (TASK.names(options), TASK.units(options)) == (("weight", "volume"), ("g", "cm³"))


def test_a_table_without_the_targets_says_which_there_are(objects: Path) -> None:
    with pytest.raises(DataError, match=r"say task.targets=\[volume_cm3,weight_g\]"):
        read(objects)


def test_two_labels_of_one_object_are_an_error(objects: Path) -> None:
    with (objects / "labels.csv").open("a") as f:
        f.write("pear002T_9.jpg,pear002,food,top,91,80\n")
    with pytest.raises(DataError, match="pear002 has two different labels"):
        read(objects, **ECUSTFD)


def test_photos_without_labels_say_where_labels_are(tmp_path: Path) -> None:
    photo(tmp_path / "dish_1550700000/frames_sampled30/camera_A_frame_001.jpeg")
    with pytest.raises(DataError, match=r"without labels.*gs://nutrition5k_dataset/.*dish_metadata_cafe"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no labels under .*expected a labels.csv with calories_kcal"):
        read(tmp_path / "dish_1550700000/frames_sampled30")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("views", 0, "task.views is 0"),
        ("frames", 0, "task.frames is 0"),
        ("height_px", -1, "task.height_px is -1"),
        ("gap_minutes", -1, "task.gap_minutes is -1"),
        ("angle", "E", "task.angle is 'E'"),
        ("angle", "", "task.angle is ''"),
        ("angle", "AA", "task.angle is 'AA'"),
        ("targets", [], "task.targets cannot be"),
        ("targets", ["weight"], "each must be NAME_UNIT"),
        ("targets", ["weight_stone"], "each must be NAME_UNIT"),
        ("targets", ["weight_g", "weight_kg"], "once"),
    ],
)
def test_options_out_of_range_are_config_errors(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Options(**{key: value})


def test_the_sample_is_deterministic_and_its_values_can_be_seen() -> None:
    a, b = (TASK.sample(40, Options(height_px=24, width_px=32, views=2)) for _ in range(2))
    assert [r.y for r in a] == [r.y for r in b]
    food = []
    for p, q in zip(a, b, strict=True):
        assert isinstance(p.x, tuple)
        assert [v.shape for v in p.x] == [(24, 32, 3)] * 2  # type: ignore[union-attr]
        assert all(np.array_equal(v, w) for v, w in zip(p.x, q.x, strict=True))  # type: ignore[arg-type]
        food.append(float((np.ptp(np.asarray(p.x[0], float), axis=-1) > 60).mean()))  # coloured, not white or grey
    assert np.corrcoef(food, [r.y[0] for r in a])[0, 1] > 0.9  # type: ignore[index]


@pytest.mark.real_data
def test_the_real_dishes_and_objects(real_data: Path) -> None:
    dishes = read(real_data / "nutrition/nutrition5k")
    assert len(dishes) == 106
    assert len({r.group for r in dishes}) < 106
    assert len(read(real_data / "nutrition/ecustfd", **ECUSTFD)) == 1162
    pairs = read(real_data / "nutrition/ecustfd", views=2, **ECUSTFD)
    used = [f for r in pairs for f in files(r)]
    assert len(used) == len(set(used)) == 1162
    assert sum("S_" in r.id and "T_" in r.id for r in pairs) > 570
