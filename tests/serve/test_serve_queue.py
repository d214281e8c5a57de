"""The bounded queue: it refuses at once when it is full, and an accepted request is answered."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx
import numpy as np
import onnx
from bundles import answer, make_bundle
from gate import LIMIT_S, Gate, metric
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from PIL import Image
from serving import Server, drawing, free_log

from proj import bundle


def test_a_full_queue_refuses_at_once_and_answers_what_it_took(folder: Path) -> None:
    gate = Gate(folder / "full")
    flags = {"queue_size": 1, "max_inputs": 1, "max_batch": 1, "threads": 1}
    with Server(make_bundle(folder / "one"), free_log(folder), before=gate.before, **flags) as server:

        def ask(seed: int) -> httpx.Response:
            return server.client.post("/predict", content=drawing(seed))

        with ThreadPoolExecutor(8) as pool:
            with gate.shut():
                taken = [pool.submit(ask, 0)]
                gate.wait_for_inside(1)
                later = as_completed([pool.submit(ask, i) for i in range(1, 8)], timeout=LIMIT_S)
                refused = [next(later).result() for _ in range(6)]  # the model still holds the first
            taken += later
        assert [r.status_code for r in refused] == [503] * 6
        assert {r.headers["retry-after"] for r in refused} == {"1"}
        assert [t.result().status_code for t in taken] == [200, 200]
        assert metric(server, r'proj_requests_total\{route="/predict",status="503"\}') == 6
        assert ask(1).status_code == 200


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
