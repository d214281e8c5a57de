"""The bounded queue: it refuses at once when it is full, and an accepted request is answered."""

from __future__ import annotations

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from bundles import answer, make_bundle
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from PIL import Image
from serving import Server, drawing, free_log

from proj import bundle


def test_a_full_queue_refuses_at_once_and_answers_what_it_took(folder: Path) -> None:
    built = make_bundle(folder / "slow", work=1000)
    with Server(built, free_log(folder), queue_size=1, max_inputs=1, max_batch=1, threads=1) as server:

        def ask(seed: int) -> tuple[int, float, str | None]:
            start = time.monotonic()
            answer = server.client.post("/predict", content=drawing(seed))
            return answer.status_code, time.monotonic() - start, answer.headers.get("retry-after")

        alone = ask(0)[1]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(ask, range(8)))
        refused = [r for r in results if r[0] == 503]
        taken = [r for r in results if r[0] == 200]
        assert len(refused) + len(taken) == 8
        assert refused
        assert 1 <= len(taken) <= 4
        assert all(seconds < alone for _, seconds, _ in refused)
        assert all(after == "1" for _, _, after in refused)
        busy = server.client.get("/metrics").text
        assert f'proj_requests_total{{route="/predict",status="503"}} {len(refused)}.0' in busy
        assert ask(1)[0] == 200


def fragile(folder: Path) -> Path:
    """A model that fails on pictures with a pixel over 199, which its example has not."""
    built = make_bundle(folder)
    graph = onnx.load(built / "model.onnx")
    last = graph.graph.node[-1]
    last.output[0] = "fine"
    graph.graph.initializer.extend(
        [from_array(np.zeros(200, np.float32), "few"), from_array(np.array([], np.int64), "all")]
    )
    graph.graph.node.extend(
        [
            helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["whole"], ["most"], keepdims=0),
            helper.make_node("Gather", ["few", "most"], ["nothing"]),
            helper.make_node("Add", ["fine", "nothing"], ["y"]),
        ]
    )
    onnx.save(graph, built / "model.onnx")
    x = np.zeros((1, 8, 8, 1), np.uint8)
    y = tuple(float(v) for v in answer(built / "model.onnx", x)[0])
    manifest = bundle.read(built)
    example = manifest.example.model_copy(update={"x_base64": base64.b64encode(x.tobytes()).decode(), "y": y})
    bundle.write(built, manifest.model_copy(update={"example": example}))
    return built


def test_a_model_that_fails_is_a_500_without_its_insides_and_the_server_goes_on(folder: Path) -> None:
    blank = Image.new("L", (8, 8), 255)
    page = io.BytesIO()
    blank.save(page, "PNG")
    with Server(fragile(folder / "fragile"), free_log(folder)) as server:
        failed = server.client.post("/predict", content=drawing())
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/problem+json"
        assert "onnx" not in failed.text.lower()
        assert server.client.post("/predict", content=page.getvalue()).status_code == 200
    assert "Traceback" in server.log
    assert "array(" not in server.log  # nobody's picture goes to the log
