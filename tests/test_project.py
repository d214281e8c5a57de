"""Where a project is: upwards to the nearest [tool.proj], and never a folder that is merely called configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import ROOT, make_project

from proj.errors import UsageError
from proj.project import find_project


def test_the_nearest_folder_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = make_project(tmp_path / "outer")
    inner = make_project(outer / "inner")
    for start, root in ((outer, outer), (inner, inner), (outer / "x", outer), (inner / "a" / "b", inner)):
        start.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(start)
        project = find_project()
        assert project.root == root
        assert (project.configs, project.data, project.models) == (root / "configs", root / "data", root / "models")
        assert "has [tool.proj]" in project.found


@pytest.mark.parametrize("toml", [None, "", "[tool.other]\n", "[project]\nname = 'proj'\n", "not toml [", "tool = 3\n"])
def test_a_folder_that_is_called_configs_is_not_picked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str | None
) -> None:
    folder = make_project(tmp_path / "p")
    (folder / "pyproject.toml").unlink()
    if toml is not None:
        (folder / "pyproject.toml").write_text(toml)
    monkeypatch.chdir(folder)
    project = find_project()
    assert (project.root, project.configs) == (folder, ROOT / "configs")
    assert "no pyproject.toml with [tool.proj]" in project.found


def test_a_pyproject_that_is_not_utf8_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff[tool.proj]")
    monkeypatch.chdir(tmp_path)
    assert find_project().configs == ROOT / "configs"


def test_a_named_folder_is_taken_as_it_is_and_not_searched_upwards(tmp_path: Path) -> None:
    outer = make_project(tmp_path / "outer")
    assert find_project(outer).root == outer
    (outer / "sub").mkdir()
    project = find_project(outer / "sub")
    assert (project.root, project.configs) == (outer / "sub", ROOT / "configs")
    assert "in that folder" in project.found


def test_a_named_folder_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        find_project(tmp_path / "none")
    (tmp_path / "pyproject.toml").write_text("[tool.proj]\n")
    with pytest.raises(UsageError, match="no configs/ folder"):
        find_project(tmp_path)


def test_a_project_without_configs_uses_those_that_came_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.proj]\n")
    monkeypatch.chdir(tmp_path)
    assert find_project().configs == ROOT / "configs"
