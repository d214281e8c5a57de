"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets: PROJ_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("PROJ_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"NO REAL DATA: {folder} is no folder; PROJ_DATA=FOLDER names it")
    return folder
