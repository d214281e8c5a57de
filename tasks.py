"""Short names for the commands that a developer types most: `uv run invoke --list`.

Each task is one or a few commands that work without invoke too; nothing is decided here.
"""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task


@task
def setup(c: Context) -> None:
    """Install what uv.lock names, and the git hooks."""
    c.run("uv sync --locked")
    c.run("uv run pre-commit install")


@task
def lint(c: Context) -> None:
    """Check style, format and the layers of the imports."""
    c.run("uv run ruff check")
    c.run("uv run ruff format --check")
    c.run("uv run lint-imports")


@task
def types(c: Context) -> None:
    """Check the types (mypy, strict)."""
    c.run("uv run mypy")


@task(help={"all": "also those that take minutes, real data, a browser or containers"})
def test(c: Context, all: bool = False) -> None:  # noqa: PT028  (a task, not a test)
    """Run the tests with branch coverage."""
    c.run("uv run pytest --cov" + (" -m ''" if all else ""))


@task(help={"overrides": 'config overrides and flags, e.g. "task=trashnet model.lr=1e-3"'})
def train(c: Context, overrides: str = "") -> None:
    """Train, evaluate and export a model."""
    c.run(f"uv run proj train {overrides}".strip())


@task(help={"run": "a run, a task's name or a bundle; left out: the newest finished run"})
def serve(c: Context, run: str = "") -> None:
    """Serve a model on http://127.0.0.1:8000."""
    c.run(f"uv run proj serve {run}".strip())


@task(help={"bundle": "a bundle inside the project, built into the serving image"})
def docker_build(c: Context, bundle: str = "") -> None:
    """Build both images: proj-train and proj-serve."""
    c.run("docker build -f dockerfiles/train.dockerfile -t proj-train .")
    c.run(f"docker build -f dockerfiles/serve.dockerfile --build-arg BUNDLE={bundle} -t proj-serve .")
