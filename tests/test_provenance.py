"""What made a run: versions, commit, the working tree's changes, and no secret among them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proj import provenance


def git(folder: Path, *args: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_tree(repository: Path) -> None:
    state, diff = provenance.git(repository)
    assert (len(state["commit"]), state["dirty"], diff) == (40, False, "")


def test_the_diff_holds_tracked_files_only_staged_or_not(repository: Path) -> None:
    (repository / "a.py").write_text("x = 2\n")
    (repository / "b.py").write_text("new\n")
    git(repository, "add", "b.py")
    (repository / ".env").write_text("SECRET_FILE=1\n")
    state, diff = provenance.git(repository)
    assert state["dirty"]
    assert "+x = 2" in diff
    assert "+new" in diff
    assert "SECRET_FILE" not in diff


def test_a_diff_is_masked_and_capped(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "ghp_" + "a1B2" * 9
    (repository / "a.py").write_text(f'key = "{token}"\n' + "y = 1\n" * 1000)
    monkeypatch.setattr(provenance, "MAX_DIFF_BYTES", 500)
    _, diff = provenance.git(repository)
    assert token not in diff
    assert "***" in diff
    assert len(diff.encode()) <= 500


def test_outside_a_repository_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git(tmp_path) == ({}, "")


def test_without_git_there_is_nothing(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.git(repository) == ({}, "")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("API_KEY=abcdef123456", "abcdef123456"),
        ("wandb_api_key: 0123456789abcdef", "0123456789abcdef"),
        ('"password": "hunter22"', "hunter22"),
        ("aws_secret_access_key = 'AbC/dEf+12'", "AbC/dEf+12"),
        ("HF_TOKEN=hf_AbCdEfGhIjKl", "hf_AbCdEfGhIjKl"),
        ("use hf_AbCdEfGhIjKl here", "hf_AbCdEfGhIjKl"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("github_pat_11ABCDEFG0abcdef", "11ABCDEFG0abcdef"),
        ("AIzaSyA-1234567890abcdef", "SyA-1234567890"),
        ("https://me:s3cret@host/x", "s3cret"),
        ("postgresql://u:p4ss@db/optuna", "p4ss"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabcd\n-----END RSA PRIVATE KEY-----", "MIIE"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, secret: str) -> None:
    assert secret not in provenance.mask(text)
    assert "***" in provenance.mask(text)


@pytest.mark.parametrize("text", ["model.lr=1e-3", "https://host/path", "tokens = 5", "max_len: 3", "key = 1"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert provenance.mask(text) == text


def test_versions_name_what_decides_a_result() -> None:
    found = provenance.versions()
    assert {"python", "platform", "proj", "numpy", "onnxruntime"} <= set(found)
