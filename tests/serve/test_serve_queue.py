"""The bounded queue: it refuses at once when it is full, and an accepted request is answered."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
from bundles import make_bundle
from serving import Server, drawing, free_log


def test_a_full_queue_refuses_at_once_and_answers_what_it_took(folder: Path) -> None:
    bundle = make_bundle(folder / "slow", work=3000)
    with Server(bundle, free_log(folder), queue_size=1, max_inputs=1, max_batch=1, threads=1) as server:

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


def test_a_model_that_fails_is_a_500_without_its_insides_and_the_server_goes_on(folder: Path) -> None:
    bundle = make_bundle(folder / "single")
    graph = onnx.load(bundle / "model.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1  # batches of one only
    onnx.save(graph, bundle / "model.onnx")
    with Server(bundle, free_log(folder)) as server:
        two = [("file", ("a", drawing(1))), ("file", ("b", drawing(2)))]
        failed = server.client.post("/predict", files=two)
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/problem+json"
        assert "onnx" not in failed.text.lower()
        assert server.client.post("/predict", content=drawing()).status_code == 200
    assert "Traceback" in server.log
    assert "array(" not in server.log  # nobody's picture goes to the log
