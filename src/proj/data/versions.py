"""Raw data under DVC: what was fetched goes into DVC's cache, so that this version can be brought back."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from loguru import logger

TIMEOUT_S = 120


def keep(root: Path, raw: Path) -> None:
    """Put `raw` into DVC's cache, if a .dvc file of the project names it and these are its bytes.

    Never changes a .dvc file: bytes that differ are a new version, which only `dvc commit` makes. Does
    nothing where DVC or its files are not there, and says what DVC said where it fails.
    """
    named = _dvc_file(root, raw)
    if named is None or not raw.exists() or not find_spec("dvc"):
        return
    file, md5 = named
    if (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).is_file():
        return
    # DVC is run, not imported: it takes a second to load. Without a terminal it refuses where it would ask.
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "commit", "--quiet", str(file.relative_to(root))],
        cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=TIMEOUT_S, env=os.environ | {"DVC_NO_ANALYTICS": "1"},
    )  # fmt: skip
    shown = file.relative_to(root).as_posix()
    if done.returncode:
        said = " ".join(done.stdout.split()) or f"exit code {done.returncode}"
        logger.warning("{} is not in DVC's cache: {}; `dvc status {}` says more", raw.name, said, shown)
    else:
        logger.info("kept for DVC as {} names it", shown)


def _dvc_file(root: Path, raw: Path) -> tuple[Path, str] | None:
    """The .dvc file that names `raw`, and the hash that it names: data.dvc or data/raw/<task>.dvc."""
    import yaml

    if not (root / ".dvc").is_dir():
        return None
    for file in (root / "data.dvc", raw.with_name(raw.name + ".dvc")):
        if not file.is_file():
            continue
        for out in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("outs", []):
            if (file.parent / out["path"]).resolve() == raw.resolve() and "md5" in out:
                return file, str(out["md5"])
    return None
