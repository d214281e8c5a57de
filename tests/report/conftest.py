from __future__ import annotations

from pathlib import Path

import pytest
from made_run import Made, make


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path)
