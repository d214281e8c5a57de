"""`run/report.html`: one page that lets a reader decide whether to trust a run's model.

It holds all that it shows (styles, charts, pictures): no script, nothing loaded from anywhere.
The same files give the same page, byte for byte.
"""

from __future__ import annotations

import shlex
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proj import console
from proj.errors import ResourceError
from proj.report import findings, measure, plots, results
from proj.report.read import History, Material, material
from proj.report.words import label, share

if TYPE_CHECKING:
    from jinja2 import Template

    from proj.runs import Record

SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
CHARTS = 5  # of learning, but for the learning rate's


def write(run: Path, prepared: Path | None) -> Path:
    """Write the report of a run directory, finished or not, and return its path.

    `prepared` is the folder of prepared data; None or one that is gone: a report without pictures.
    Raises RunNotFound when `run` is not a run directory, CheckFailed when one of its files is broken or was
    made on other data, ResourceError when the page cannot be written.
    """
    page = render(material(run, prepared))
    path, tmp = run / "report.html", run / "report.html.tmp"
    try:
        tmp.write_text(page, encoding="utf-8")
        tmp.replace(path)
    except OSError as e:
        tmp.unlink(missing_ok=True)
        next = "free some space, or make the folder writable"
        raise ResourceError(f"{path} cannot be written", found=e.strerror or str(e), next=next) from None
    return path


@cache
def _template() -> Template:
    import jinja2

    files = resources.files("proj.report")
    env = jinja2.Environment(
        autoescape=True,  # names, ids and notes come from data: none of them is markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8")),
    )
    env.filters.update(share=share, seconds=console.seconds)
    return env.get_template("run.html")


def render(m: Material) -> str:
    """The page's HTML."""
    known = measure.intervals(m)
    return _template().render(
        m=m,
        r=m.record,
        s=m.scores,
        command=command(m.record),
        commit=commit(m.record.git),
        findings=findings.found(m, known),
        skipped=findings.skipped_files(m),
        warnings=warnings(m),
        charts=charts(m),
        best=best(m),
        shows_results=m.scores is None or not m.scores.folds or m.scores.confusion is not None,
        **results.sections(m, known),
    )


def command(r: Record) -> str:
    """What was typed, as far as it says what was trained."""
    return " ".join(["proj train", *map(shlex.quote, r.overrides), *(["--fast"] if r.fast else [])])


def commit(git: dict[str, Any]) -> str:
    """The commit for a reader, or that there is none."""
    name = str(git.get("commit") or "")
    if not name:
        return "not under version control"
    return name[:12] + (" with uncommitted changes" if git.get("dirty") else "")


def warnings(m: Material) -> list[str]:
    """Why the figures must not be taken for a result, loudest first."""
    r = m.record
    said = []
    if r.sample or (m.prepared is not None and m.prepared.meta.get("sample")):
        said.append("Synthetic data: the program made the rows up. These figures say nothing about real ones.")
    if r.fast:
        said.append("Made with --fast: one batch of everything, to see it move. The model has learned nothing.")
    if r.status == "failed":
        said.append(f"The run did not finish{': ' + r.error if r.error else '; it was stopped'}.")
    return said


def charts(m: Material) -> list[dict[str, str]]:
    """Learning curves of what metrics.csv has columns for: loss, validation scores, learning rate."""
    made: list[dict[str, str]] = []
    for title, columns in _curves(m.history).items():
        lines = [
            plots.Line(name, [*m.history[column].values()], second=i == 1)
            for i, (column, name) in enumerate(columns.items())
            if column in m.history
        ]
        if lines:
            svg = plots.curves(f"curve{len(made)}", lines, findings.best_epoch(m.history, m.scores))
            made.append({"title": title, "svg": svg})
    return made


def _curves(history: History) -> dict[str, dict[str, str]]:
    """Charts by title, at most two columns in each: shares stand together, each other metric alone in its unit."""
    scores = [c.removeprefix("val_") for c in history if c.startswith("val_") and c != "val_loss"]
    shares = [c for c in scores if c in SHARES][:2]
    wanted = {"Loss": {"train_loss": "training", "val_loss": "validation"}}
    if shares:
        wanted["Validation"] = {f"val_{c}": label(c) for c in shares}
    for c in [c for c in scores if c not in SHARES][: CHARTS - len(wanted)]:
        wanted[f"Validation {label(c)}"] = {f"val_{c}": label(c), f"train_{c}": "training"}
    wanted["Learning rate"] = {"lr": "learning rate"}
    return wanted


def best(m: Material) -> str:
    """The marked epoch in words: "Dotted: epoch 12, the best (validation loss 0.13, accuracy 0.96)."."""
    epoch = findings.best_epoch(m.history, m.scores)
    if epoch is None:
        return ""
    values = {
        label(column.removeprefix("val_")): dict(folds.get(0, [])).get(epoch)
        for column, folds in m.history.items()
        if column.startswith("val_")
    }
    said = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
    return f"Dotted: epoch {epoch}, the best{f' (validation {said})' if said else ''}."
