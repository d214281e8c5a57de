"""The bounded queue: it refuses at once when it is full, and an accepted request is answered."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bundles import make_bundle
from serving import Server, drawing, free_log


def test_a_full_queue_refuses_at_once_and_answers_what_it_took(folder: Path) -> None:
    bundle = make_bundle(folder / "slow", work=6000)
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
        assert all(seconds < 0.7 * alone for _, seconds, _ in refused)
        assert all(after == "1" for _, _, after in refused)
        busy = server.client.get("/metrics").text
        assert f'proj_requests_total{{route="/predict",status="503"}} {len(refused)}.0' in busy
        assert ask(1)[0] == 200
