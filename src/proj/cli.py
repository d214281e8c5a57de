"""The command line. Imports nothing but the standard library and Typer here: `proj --help` stays fast."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer._click.exceptions import UsageError
from typer.exceptions import Exit

from proj import ending
from proj.mistyped import DataVerbs, Verbs

if TYPE_CHECKING:
    from proj.project import Project
    from proj.verbs.job import Job


app = typer.Typer(
    name="proj",
    cls=Verbs,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(cls=DataVerbs, rich_markup_mode=None)
app.add_typer(data_app, name="data")


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    from proj.verbs import complete

    typed = list(ctx.params.get("overrides") or ())
    return complete.words(typed, incomplete, ctx.find_root().params.get("project"), data=ctx.info_name == "prepare")


def _given(metavar: str, help: str, **more: Any) -> Any:
    return typer.Argument(metavar=metavar, help=help, show_default=False, **more)


def _flag(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **more)


Overrides = Annotated[
    list[str] | None, _given("[KEY=VALUE]...", "Config overrides, in Hydra's grammar.", autocompletion=_complete)
]
RUN_HELP = "A run directory or name, a task's name, a bundle or a URL; default: the newest."
Run = Annotated[str | None, _given("[RUN]", RUN_HELP)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Fast = Annotated[bool, typer.Option("--fast", help="One batch of everything, to see it work.")]


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"proj {version('proj')}")
        raise Exit()


@app.callback()
def root(
    ctx: typer.Context,
    project: Annotated[
        Path | None,
        typer.Option("--project", metavar="DIR", help="The project's root; default: the nearest upwards."),
    ] = None,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """From a data set to a served model: proj train, then proj serve."""
    if project is not None and not project.is_dir():
        raise UsageError(f"--project {project} is not a folder", ctx)
    _state["project"] = project
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


_state: dict[str, Path | None] = {"project": None}


@data_app.callback()
def data() -> None:
    """proj data task=trashnet data.source=photos/

    Download, check and prepare a task's data (does nothing the second time); or look at a folder: proj data check.
    """


@data_app.command("prepare")
def data_prepare(overrides: Overrides = None, fast: Fast = False, as_json: Json = False) -> None:
    """proj data task=trashnet data.source=photos/

    Download, check and prepare a task's data. Does nothing the second time.
    """
    start = time.monotonic()
    job = _job("data", overrides)
    from proj.verbs import data as verb

    verb.prepared(job, fast=fast, as_json=as_json, start=start)


@data_app.command("check")
def data_check(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures, one folder a class.")],
    as_json: Json = False,
) -> None:
    """proj data check photos/

    Look at a folder before training: classes, counts, sizes, doubles, broken files. Exit code 1 if something is wrong.
    """
    from proj.verbs import data as verb

    _log()
    raise Exit(verb.checked(folder, as_json=as_json))


@data_app.command("cache")
def data_cache(
    task: Annotated[str | None, _given("[TASK]", "Of this task alone.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove it.")] = False,
    as_json: Json = False,
) -> None:
    """proj data cache --clear trashnet

    List what training keeps so as not to compute it twice: features of frozen backbones, ids of texts.
    """
    from proj.verbs import cache as verb

    _log()
    verb.show(_project().data / "features", task or "", clear=clear, as_json=as_json)


@app.command()
def train(
    overrides: Overrides = None,
    fast: Fast = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check config, data, disk and device; say what would happen.")
    ] = False,
    name: Annotated[str, typer.Option(help="The run's name; default: the time.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="With --name: take the place of an earlier run.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|auto",
            help="Go on with an unfinished run; auto: with the one that these very overrides began, if there is one.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """proj train task=trashnet model.lr=1e-3 seed=7

    Fetch and prepare what is lacking, train, evaluate on the held-back split, export a bundle, write a report.
    A run that was stopped or killed goes on with --resume, and ends in the weights that it would have had.
    """
    start = time.monotonic()
    if resume is not None:
        odd = {"--name": name, "--replace": replace, "--dry-run": dry_run, "--fast": fast and resume != "auto"}
        refused = [flag for flag, given in odd.items() if given]
        if _resumed(resume, overrides or [], start, as_json=as_json, fast=fast, refused=refused):
            return
    job = _job("train", overrides)
    from proj import runs

    runs.check_name(job.project.models / job.task.name, name, replace=replace)
    if dry_run:
        from proj.verbs import plan

        plan.show(plan.plan(job, fast=fast), as_json=as_json)
        return
    from proj.verbs import train as verb

    run, content = verb.train(job, fast=fast, name=name, replace=replace)
    verb.answer(run, content, time.monotonic() - start, as_json=as_json)


def _resumed(ref: str, overrides: list[str], start: float, *, as_json: bool, fast: bool, refused: list[str]) -> bool:
    """Go on with the run that `ref` names, and print what it reached. False: `auto` found none, a new one begins."""
    from proj.errors import UsageError as Wrong

    if refused:
        raise Wrong("--resume goes on with a run as it was begun", next=f"leave out {' and '.join(refused)}")
    job = _job("train", overrides if ref == "auto" else [])
    from proj.verbs import resume
    from proj.verbs import train as verb

    done = resume.named(ref, job, overrides, verb.work, fast=fast)
    if done is not None:
        verb.answer(done.run, done.content, time.monotonic() - start, as_json=as_json)
    return done is not None


@app.command()
def evaluate(run: Run = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """proj evaluate trashnet data.source=other/

    Score a run on its held-back test split, or on every row of another source, and write its report anew.
    """
    start = time.monotonic()
    words = overrides or []
    if run is not None and "=" in run and not Path(run).exists():  # no RUN was named: this is the first override
        words = [run, *words]
        run = None
    found = _resolve("evaluate", run)
    from proj.verbs import evaluate as verb
    from proj.verbs import train as after

    content = verb.evaluate(found.directory(), _project(), words)
    after.answer(found.directory(), content, time.monotonic() - start, as_json=as_json, bundle=False)


@app.command()
def predict(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Files, folders, globs, or - for standard input.")
    ],
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Which model answers; default: the newest.")
    ] = None,
    views: Annotated[bool, typer.Option("--views", help="All FILEs are views of one thing: one answer.")] = False,
    as_json: Json = False,
) -> None:
    """proj predict photo.jpg folder/ --run trashnet

    Pictures; texts as .txt, .csv or .jsonl (a row an input); series as .csv or .npy. Answers as a table, or with
    --json as a list in the order of the inputs. Exit code 1 if an input could not be read.
    """
    found = _resolve(None, run)
    from proj import console
    from proj.verbs import predict as verb

    answers = list(verb.predict(found.bundle, files, views=views))
    if as_json:
        console.json_out(answers)
    else:
        print("\n".join(verb.show(answers)))
    raise Exit(int(any("error" in a for a in answers)))


@app.command()
def export(run: Run = None, as_json: Json = False) -> None:
    """proj export trashnet

    Make a run's bundle (model.onnx + bundle.json) again, checked against torch on the test split.
    """
    start = time.monotonic()
    found = _resolve("export", run)
    from proj import console
    from proj.verbs import evaluate as verb

    bundle = verb.export(found.directory(), _project())
    if as_json:
        console.json_out({"run": str(found.directory()), "bundle": str(bundle)})
        return
    size = console.size(console.folder_bytes(bundle))
    rows = [("bundle", f"{console.relative(bundle)} ({size})"), ("took", console.seconds(time.monotonic() - start))]
    console.outcome(rows, next=f"proj serve {console.relative(bundle)}")


@app.command()
def serve(
    words: Annotated[
        list[str] | None,
        _given("[RUN]... [KEY=VALUE]...", "Models; default: the newest run. And settings, such as workers=2."),
    ] = None,
    host: Annotated[str | None, _flag("Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, _flag("Port; default 8000; 0 takes a free one.")] = None,
    workers: Annotated[int | None, _flag("Processes that answer; default: one for every 8 cores.")] = None,
    allow_host: Annotated[list[str] | None, _flag("Host header to accept; repeatable.", metavar="NAME")] = None,
    threshold: Annotated[
        float | None, _flag("Answers less sure than this carry no label; default: the model's.")
    ] = None,
    config: Annotated[Path | None, _flag("Settings; default: serve.yaml, if there.", metavar="FILE")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Measure what is fastest here, keep it in serve.yaml.")] = False,
) -> None:
    """proj serve trashnet digits --port 8000

    Serve models: POST /predict, a page at /, /health, /ready, /model, /metrics, /docs, /v2. Several models have these
    under /NAME. Newer versions take their place while it runs. Stops gracefully.

    Further settings, each KEY=VALUE: engine, precision, threads, max_batch, queue_size, connections,
    max_upload_mb, uploads_mb, max_pixels, max_inputs, deadline_s, head_s, idle_s, upload_s, drain_s, stop_s,
    watch_s, cors, proxies, keys, rate, log.
    """
    _log()
    from proj.verbs import serve as verb

    flags = {"host": host, "port": port, "workers": workers, "allow_host": allow_host, "threshold": threshold}
    raise Exit(verb.serve(words or [], flags, config, _project().models, tune=tune))


@app.command()
def keys(
    action: Annotated[Literal["add", "list", "revoke"], typer.Argument(help="What to do.")] = "list",
    name: Annotated[str, _given("[NAME]", "Whose key.")] = "",
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="Where they are.")] = Path("keys.json"),
    as_json: Json = False,
) -> None:
    """proj keys add ci

    Who may ask a server that was started with keys=FILE. A key is shown once, the file keeps its hash.
    """
    _log()
    from proj.verbs import keys as verb

    verb.run(action, name, file, as_json=as_json)


@app.command()
def profile(
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps to time; half a minute's at the most.")] = 30,
    as_json: Json = False,
) -> None:
    """proj profile task=trashnet model.backbone=mobilenetv3_small_100

    Train for some steps and say what the time goes to, how far the machine is used, and what to change.
    """
    job = _job("profile", overrides)
    from proj import console
    from proj.verbs import profile as verb

    measured, advices = verb.profile(job, steps=steps)
    if as_json:
        console.json_out(verb.document(job, measured, advices))
    else:
        verb.show(job, measured, advices)


@app.command()
def config(overrides: Overrides = None, as_json: Json = False) -> None:
    """proj config task=trashnet model=small

    Print the resolved config, and where each value came from: default, file, or command line.
    """
    job = _job("config", overrides)
    from proj import console
    from proj.verbs import show

    if as_json:
        console.json_out(show.document(job))
    else:
        print("\n".join(show.lines(job)))


@app.command()
def doctor(as_json: Json = False) -> None:
    """proj doctor

    What this machine and project have and lack, and how to mend each. Exit code 1 if something is wrong.
    """
    from proj import console
    from proj.verbs import doctor as verb

    findings = verb.examine(_project())
    if as_json:
        console.json_out(verb.document(findings))
    else:
        print("\n".join(verb.lines(findings)))
    raise Exit(int(any(f.state == "bad" for f in findings)))


def _project() -> Project:
    from proj.project import find_project

    return find_project(_state["project"])


def _log() -> None:
    from proj import console

    console.log_to_stderr()


def _job(verb: str, overrides: list[str] | None) -> Job:
    from proj.verbs import job

    _log()
    job.need_train(verb)
    return job.job(overrides or [], _project())


def _resolve(needs_train: str | None, run: str | None) -> Any:
    from loguru import logger

    from proj import resolve

    _log()
    if needs_train:
        from proj.verbs import job

        job.need_train(needs_train)
    found = resolve.resolve(run, _project().models)
    if found.chosen:
        logger.info("using {} (the newest finished run)", found.run)
    return found


def main(args: list[str] | None = None) -> NoReturn:
    """The entry point. Ends the process with the exit code that errors.py defines."""
    # On Windows and inside threads there may be no such signal to take.
    with contextlib.suppress(ValueError, AttributeError, OSError):
        signal.signal(signal.SIGTERM, ending.on_sigterm)
    sys.exit(ending.guarded(lambda: app(args, prog_name="proj", standalone_mode=False)))


if __name__ == "__main__":
    main()
