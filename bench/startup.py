"""How long `proj --help`, every verb's --help and `proj config` take, beside a bare Typer hello.

python bench/startup.py [ROUNDS]

Two hellos: one set as proj is (rich off), and one as Typer comes (`typer.run`). Each round runs all of them, so that a
busy machine slows them alike; the table has medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJ = Path(sys.executable).parent / "proj"
VERBS = ("data", "train", "evaluate", "predict", "export", "serve", "keys", "profile", "config", "doctor")
PLAIN = """
import typer
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
@app.command()
def hello(name: str = "you") -> None:
    "Say hello."
    print("hello", name)
app()
"""
DEFAULT = """
import typer
def hello(name: str = "you") -> None:
    "Say hello."
    print("hello", name)
typer.run(hello)
"""
LIMIT, CONFIG_LIMIT_S = 2.5, 1.0


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        hellos = {}
        for name, code in (("plain", PLAIN), ("default", DEFAULT)):
            path = Path(folder) / f"{name}.py"
            path.write_text(code, encoding="utf-8")
            hellos[f"hello, {name}"] = [sys.executable, str(path), "--help"]
        ours = {"proj --help": [str(PROJ), "--help"]}
        ours |= {f"proj {verb} --help": [str(PROJ), verb, "--help"] for verb in VERBS}
        commands = {**hellos, **ours, "proj config": [str(PROJ), "config"]}
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                took[name].append(seconds(command))
    median = {name: statistics.median(times) for name, times in took.items()}
    plain, default = median["hello, plain"], median["hello, default"]
    print(f"{'command':<22}{'ms':>7}{'x plain':>10}{'x default':>11}")
    for name, s in median.items():
        print(f"{name:<22}{s * 1000:>7.0f}{s / plain:>10.2f}{s / default:>11.2f}")
    worst = max(median[name] / plain for name in ours)
    print(f"worst --help: {worst:.2f}x of the plain hello (at most {LIMIT}); "
          f"proj config: {median['proj config']:.2f} s (at most {CONFIG_LIMIT_S})")  # fmt: skip
    return int(worst > LIMIT or median["proj config"] > CONFIG_LIMIT_S)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
