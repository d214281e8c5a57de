"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from made_projects import Finished

# Tests run side by side, and so do the processes they start: each has one thread for its numbers, and one that waits
# does not spin. Two trainings that share two cores with two threads each take several times as long as one by one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets: PROJ_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("PROJ_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"NO REAL DATA: {folder} is no folder; PROJ_DATA=FOLDER names it")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A small finished digits run in a project of its own, made once; tests change only copies of it."""
    from made_projects import finished as make

    return make(tmp_path_factory.mktemp("finished"))
