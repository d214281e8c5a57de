r"""Serving against other servers and against bare loops: alternating slices in one run, with the bars.

    python bench/serving.py PHOTOS [PEERS_PYTHON]                               all sides, three rounds, an hour at most
    python bench/serving.py PHOTOS --sides ours --rounds 1                      a look; needs no peers
    python bench/serving.py PHOTOS PYTHON --model FOLDER                        the model is made once and kept there

PHOTOS is a folder of JPEG photos, one folder a class (TrashNet's). The peers live in an environment of their own:

    uv venv --python 3.11 /path/to/peers
    uv pip install --python /path/to/peers/bin/python --compile-bytecode torch torchvision timm fastapi \
        "uvicorn[standard]" python-multipart pillow onnxruntime numpy litserve bentoml

side           what it is
ours           `proj serve BUNDLE`, default settings
raw            the same, the photo as the body itself instead of a form
openvino       `proj serve` with engine=openvino
bf16           `proj serve` with engine=openvino precision=bf16
fastapi-torch  FastAPI, one `async def` with Pillow and torch eager, as the reference systems write it
fastapi-onnx   FastAPI, a `def` with Pillow and ONNX Runtime, one worker
fastapi-ours   the same with our ONNX file, our decoder, as many workers and threads as ours
litserve       LitServe, batches of up to 16, the same ONNX file
bentoml        BentoML, adaptive batches of up to 16, the same ONNX file
bare           decode and model in loops over bytes in memory, as many threads as ours

The model is mobilenetv3_small_100 with six classes, trained for forty epochs (a quarter of an hour) by `proj train` at
224 x 224 and exported by it: one that has learned little says nearly the same of two classes so often that its answers
are no measure of a precision. Every side takes the same photos as a form's file (raw: as the body).

Machines that are rented drift by a third within minutes, so sides are compared within seconds: a pair of sides is
started, and takes turns in slices, at each number of connections in a closed loop; while one is asked, the other is
stopped (SIGSTOP). A ratio is of two slices that follow each other. Every second slice, and every second round of
pairs, runs backwards. The load comes from this process, by proj.serve.load, on the same cores. PSS is taken after the
load. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from serving_sides import (
    Made,
    Running,
    Side,
    SideError,
    make,
    peer_sides,
    photos,
    proj_side,
    versions,
)
from serving_table import bars, sides
from serving_turns import BARE, Found, rounds, say
from training_sides import machine
from training_table import Line, table

from proj import engines
from proj.serve import cores, traffic
from proj.serve.settings import Settings

OURS = ("ours", "raw", "openvino", "bf16")
PEERS = ("fastapi-torch", "fastapi-onnx", "fastapi-ours", "litserve", "bentoml")
NAMES = (*OURS, *PEERS, BARE)
AGREES, CHANGED = 1e-3, 0.005
ANSWERS = 4_000  # photos at most whose answers are compared with torch's: half a percent of them is still twenty


def all_sides(made: Made, peers: str | None) -> dict[str, Side]:
    workers, threads = cores.shares(Settings())
    found = {
        "ours": proj_side("ours", made.bundle),
        "raw": proj_side("raw", made.bundle, field=""),
        "openvino": proj_side("openvino", made.bundle, "engine=openvino"),
        "bf16": proj_side("bf16", made.bundle, "engine=openvino", "precision=bf16"),
    }
    them = peer_sides(made, peers or sys.executable, workers=workers, threads=threads)
    return found | {k: s for k, s in them.items() if peers or k == "fastapi-ours"}


def answers(side: Side, sent: list[bytes], want: np.ndarray[Any, Any], folder: Path) -> tuple[float, float]:
    """Largest difference between the side's probabilities and those wanted; share of other labels."""
    got = np.zeros_like(want)
    with Running(side, sent[0], folder / f"{side.name}.log") as server:
        for row, photo in zip(got, sent, strict=True):
            status, body = traffic.ask(server.url, side.request(server.url, photo))
            if status != 200:
                raise SideError(f"{side.name} answered {status}: {body[:200]!r}")
            row[:] = list(json.loads(body)["probabilities"].values())
    return float(np.abs(got - want).max()), float((got.argmax(1) != want.argmax(1)).mean())


def torch_says(made: Made, sent: list[bytes]) -> np.ndarray[Any, Any]:
    """Probabilities (photos, classes) of the trained network in torch, 32 bits, on our decoder's pixels."""
    import timm
    import torch

    from proj import infer

    model = infer.load(made.bundle, threads=1)
    kept = torch.load(made.weights, weights_only=True)
    net = timm.create_model("mobilenetv3_small_100", pretrained=False, num_classes=len(model.manifest.names))
    net.load_state_dict(kept["state"])
    net.eval()
    mean, std = (torch.tensor(kept[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    rows = []
    with torch.inference_mode():
        for photo in sent:
            x = torch.from_numpy(infer.decode(model, photo)[None]).permute(0, 3, 1, 2).float() / 255
            rows.append(net((x - mean) / std).softmax(-1).numpy()[0])
    return np.stack(rows)


def agreement(found: dict[str, Side], sent: list[bytes], made: Made, folder: Path) -> list[Line]:
    lines = []
    names = [n for n in ("ours", "openvino", "bf16") if n in found]
    want = torch_says(made, sent) if names else np.zeros(0)
    for name in names:
        close = Line(f"{name}: largest difference of probabilities", "torch", AGREES, "", least=False)
        same = Line(f"{name}: share of other answers", "torch", CHANGED, "", least=False)
        try:
            difference, changed = answers(found[name], sent, want, folder)
        except SideError as e:
            close.missing = same.missing = f"did not run: {e}".splitlines()[0]
            lines.append(close)
            continue
        close.add(difference, 1.0)
        same.add(changed, 1.0)
        if name == "bf16":  # its precision is chosen: labels count
            say(f"bf16: largest difference of probabilities {difference:.4f}")
            lines.append(same)
        else:
            lines += [close, same]
    return lines


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of JPEG photos, one folder a class")
    parser.add_argument("peers", nargs="?", metavar="PEERS_PYTHON", help="python of the peers' environment")
    parser.add_argument("--sides", nargs="+", choices=NAMES, default=list(NAMES), metavar="SIDE", help=", ".join(NAMES))
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 64, 256], metavar="N")
    parser.add_argument("--rounds", type=int, default=3, help="each starts every pair anew")
    parser.add_argument("--slices", type=int, default=3, help="turns of each side in a round")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--warm", type=float, default=0.5, help="seconds before it that do not count")
    parser.add_argument("--count", type=int, default=200, help="photos that are sent in turn")
    parser.add_argument("--epochs", type=int, default=40, help="of the model's training")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="where the model is kept for another run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    args = parser.parse_args(words)
    if min(args.rounds, args.slices, args.count, args.epochs, *args.connections) < 1:
        parser.error("--rounds, --slices, --count, --epochs and --connections must be 1 or more")
    if args.seconds <= 0 or args.warm < 0:
        parser.error("--seconds must be more than 0, --warm not less")
    if not args.photos.is_dir():
        parser.error(f"{args.photos} is not a folder")
    if missing := [] if args.peers else [s for s in args.sides if s in PEERS and s != "fastapi-ours"]:
        args.sides = [s for s in args.sides if s not in missing]
        say(f"not measured without PEERS_PYTHON: {', '.join(missing)}")
    return args


def main() -> int:
    args = arguments()
    here = versions(sys.executable)
    them = versions(args.peers) if args.peers else {}
    for name, there in {"ours": here, "peers": them}.items():
        print(f"{name}: " + (", ".join(f"{k} {v}" for k, v in there.items()) or "no environment"))
    amx = engines.has_cpu("amx_bf16")
    print(f"{machine()}, {cores.cores()} usable{', AMX' if amx else ''}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kept = (args.model or folder / "model").resolve()
        made = make(args.photos, kept, epochs=args.epochs)
        sent = photos(args.photos, args.count, folder / "photos")
        print(f"{len(sent)} photos of {sum(map(len, sent)) / len(sent) / 1000:.1f} kB on average", flush=True)
        known = all_sides(made, args.peers)
        found = Found(known, sent, made, args, folder)
        rounds(found)
        compared = photos(args.photos, ANSWERS, folder / "compared")
        ran = {n: s for n, s in known.items() if n in args.sides and n not in found.failed}
        same = agreement(ran, compared, made, folder)
    lines = [*bars(found.seen, found.bare, found.processes, amx=amx), *same]
    print("\n".join(sides(found.seen, found.bare, found.processes, args.connections)))
    print("\n".join(["", *table([x for x in lines if x.ours or x.missing])]))
    for name, why in found.failed.items():
        print(f"{name} did not run: {why}")
    if args.json:
        asked = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        content = {
            "machine": machine(), "versions": {"ours": here, "peers": them}, "asked": asked, "failed": found.failed,
            "seen": [asdict(s) for s in found.seen], "bare": [asdict(b) for b in found.bare],
            "processes": [asdict(p) for p in found.processes], "lines": [x.content() for x in lines],
        }  # fmt: skip
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(bool(found.failed) or any(x.holds is False for x in lines))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SideError as error:
        sys.exit(f"error: {error}")
