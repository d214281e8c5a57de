"""Where a project is: its root, its configs, its data and models."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from proj.errors import UsageError


@dataclass(frozen=True)
class Project:
    """Where a project's parts are. `found` says how the root was found, for `proj config` and `proj doctor`."""

    root: Path
    configs: Path
    found: str

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def models(self) -> Path:
        return self.root / "models"


def find_project(directory: Path | None = None) -> Project:
    """The nearest folder upwards whose pyproject.toml has [tool.proj]; else the working folder."""
    start = (directory or Path.cwd()).resolve()
    if directory is not None and not start.is_dir():
        raise UsageError(f"--project {directory} is not a folder")
    for folder in (start, *start.parents) if directory is None else (start,):
        if _is_project(folder / "pyproject.toml") and (folder / "configs").is_dir():
            return Project(folder, folder / "configs", f"{folder / 'pyproject.toml'} has [tool.proj]")
    if directory is not None and _is_project(start / "pyproject.toml"):
        raise UsageError(f"{start} has [tool.proj] but no configs/ folder")
    where = "above the working folder" if directory is None else "in that folder"
    return Project(start, _packaged_configs(), f"no pyproject.toml with [tool.proj] {where}")


def _is_project(path: Path) -> bool:
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool")
        return isinstance(tool, dict) and "proj" in tool
    except (OSError, ValueError):
        return False


def _packaged_configs() -> Path:
    """In a wheel the configs lie inside the package; in an editable install they are the checkout's own."""
    inside = Path(__file__).parent / "configs"
    checkout = Path(__file__).parents[2] / "configs"
    return inside if inside.is_dir() else checkout
