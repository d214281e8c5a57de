"""What is imported when: the layers of the design, and how little a command or the server loads."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DEEPEST = 8
VERBS = ("data", "train", "evaluate", "predict", "export", "serve", "profile", "config", "doctor")
HEAVY = {
    "torch", "pytorch_lightning", "lightning", "timm", "transformers", "hydra", "omegaconf", "sklearn",
    "wandb", "matplotlib", "dvc",
}  # fmt: skip
NOT_FOR_HELP = HEAVY | {
    "fastapi", "httpx", "loguru", "numpy", "onnx", "onnxruntime", "PIL", "pydantic", "rich", "starlette",
    "tqdm", "uvicorn", "yaml",
}  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Imports inside functions count; those that only a type checker follows do not."""
    graph = grimp.build_graph("proj", exclude_type_checking_imports=True, cache_dir=None)
    # A task is found by its module's name, in the package where the tasks are.
    graph.remove_import(importer="proj.task", imported="proj.tasks")
    return graph


def loaded_by(code: str) -> set[str]:
    """Top-level names in sys.modules of a new process after `code`."""
    code = f"import json, sys\n{code}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_loads_nothing_but_typer(args: list[str]) -> None:
    loaded = loaded_by(
        f"from proj import cli\ntry:\n    cli.main({args})\nexcept SystemExit as e:\n    assert not e.code"
    )
    assert "typer" in loaded
    assert loaded & NOT_FOR_HELP == set()


def test_a_mistyped_verb_loads_nothing_more() -> None:
    loaded = loaded_by(
        "from proj import cli\ntry:\n    cli.main(['trian'])\nexcept SystemExit as e:\n    assert e.code == 2"
    )
    assert loaded & NOT_FOR_HELP == set()


def test_the_server_loads_no_training_stack() -> None:
    loaded = loaded_by("import proj.infer, proj.serve.api, proj.serve.supervisor, proj.serve.worker, onnxruntime")
    assert {"fastapi", "onnxruntime"} <= loaded
    assert loaded & HEAVY == set()


def test_a_first_answer_does_not_wait_for_fastapi() -> None:
    loaded = loaded_by("from proj.serve import supervisor\nsupervisor._preload()")
    assert "proj" in loaded
    assert loaded & {"fastapi", "starlette"} == set()


def test_predict_needs_the_bundle_alone() -> None:
    assert loaded_by("import proj.infer, proj.runs, proj.fetch, proj.verbs.predict") & HEAVY == set()


def test_the_contracts_of_the_layers_are_kept() -> None:
    done = subprocess.run([BIN / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_errors_imports_nothing(graph: grimp.ImportGraph) -> None:
    assert graph.find_modules_directly_imported_by("proj.errors") == set()


def test_imports_are_at_most_eight_deep(graph: grimp.ImportGraph) -> None:
    """The longest way down from the command line, in imports."""

    @functools.cache
    def longest(module: str) -> tuple[str, ...]:
        below = [longest(m) for m in sorted(graph.find_modules_directly_imported_by(module))]
        return (module, *max(below, key=len, default=()))

    chain = longest("proj.cli")
    assert len(chain) - 1 <= DEEPEST, " > ".join(chain)
