"""The Open Inference Protocol on a real server, driven by Triton's own client."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from bundles import make_bundle, make_series_bundle, make_text_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Server, drawing, free_log
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from proj import infer
from proj.errors import InputTooLarge
from proj.serve import board, v2, v2_openapi
from proj.serve.connection import Connection
from proj.serve.head import Head
from proj.serve.metrics import Metrics
from proj.serve.queue import Queue
from proj.serve.reply import Reply
from proj.serve.settings import Settings
from proj.serve.slots import Slot

DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
ARTICLE = {"title": "Senate passes the budget", "text": "The vote took three hours and ended 52 to 48."}
WINDOW = {"series": np.random.default_rng(0).normal(size=(15, 6)).round(3).tolist()}
GOOD = b'{"inputs": [{"name": "x", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [%b]}]}' % b",".join([b"7"] * 64)
# What each model is sent: as /predict takes it, and as `infer.decode` does.
INPUTS: dict[str, tuple[dict[str, Any], Any]] = {
    "digits": ({"content": drawing(3)}, drawing(3)),
    "fakenews": ({"json": ARTICLE}, ARTICLE),
    "wheel": ({"json": WINDOW}, WINDOW["series"]),
}


@pytest.fixture(scope="module")
def bundles(folder: Path) -> dict[str, Path]:
    return {
        "digits": make_bundle(folder / "v2" / "digits"),
        "fakenews": make_text_bundle(folder / "v2" / "fakenews"),
        "wheel": make_series_bundle(folder / "v2" / "wheel", name="wheel"),
        "slow": make_bundle(folder / "v2" / "slow", name="slow", work=250),  # some 0.04 s a call
    }


@pytest.fixture(scope="module")
def four(folder: Path, bundles: dict[str, Path]) -> Iterator[Server]:
    with Server(list(bundles.values()), free_log(folder), workers=1, max_inputs=8, max_upload_mb=0.5) as running:
        yield running


@pytest.fixture
def triton(four: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(four.url.removeprefix("http://"), concurrency=4) as client:
        yield client


def decoded(bundle: Path, source: Any) -> infer.Array:
    """What the client of a tensor protocol has to send: (1, ...)."""
    return infer.batch([infer.decode(infer.load(bundle, threads=1), source)])


def tensor(x: infer.Array, *, binary: bool = True) -> InferInput:
    return InferInput("x", list(x.shape), DATATYPES[str(x.dtype)]).set_data_from_numpy(x, binary_data=binary)


def answered(answer: dict[str, Any]) -> list[float]:
    """The numbers of an answer of POST /predict."""
    if "probabilities" in answer:
        return list(answer["probabilities"].values())
    return [v["value"] for v in answer["values"].values()]


@pytest.mark.parametrize("name", list(INPUTS))
def test_json_and_bytes_agree_with_predict(
    four: Server, triton: InferenceServerClient, bundles: dict[str, Path], name: str
) -> None:
    request, source = INPUTS[name]
    wanted = answered(four.client.post(f"/{name}/predict", **request).json())
    x = decoded(bundles[name], source)
    plain = triton.infer(name, [tensor(x, binary=False)], outputs=[InferRequestedOutput("y", binary_data=False)])
    as_bytes = triton.infer(name, [tensor(x)], model_version="test", request_id="a-7")
    assert as_bytes.get_response()["id"] == "a-7"
    assert as_bytes.get_response()["model_version"] == "test"
    assert "data" in plain.get_output("y")
    assert "data" not in as_bytes.get_output("y")
    np.testing.assert_allclose(as_bytes.as_numpy("y"), [wanted], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(plain.as_numpy("y"), as_bytes.as_numpy("y"))


@pytest.mark.parametrize("name", list(INPUTS))
def test_what_is_served_is_described(triton: InferenceServerClient, bundles: dict[str, Path], name: str) -> None:
    x = decoded(bundles[name], INPUTS[name][1])
    about = triton.get_model_metadata(name)
    assert about["versions"] == ["test"]
    (described,) = about["inputs"]
    assert described["name"] == "x"
    assert described["datatype"] == DATATYPES[str(x.dtype)]
    assert all(d in {-1, n} for d, n in zip(described["shape"], x.shape, strict=True))
    assert about["outputs"][0]["shape"] == [-1, triton.infer(name, [tensor(x)]).as_numpy("y").shape[1]]
    config = triton.get_model_config(name, "test")
    assert config["input"][0]["dims"] == described["shape"][1:]
    assert config["max_batch_size"] == 8
    assert triton.is_model_ready(name)
    assert triton.is_model_ready(name, "test")
    assert not triton.is_model_ready(name, "other")


def test_the_server_is_described(triton: InferenceServerClient, bundles: dict[str, Path]) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["name"] == "proj"
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    assert [(m["name"], m["version"], m["state"]) for m in triton.get_model_repository_index()] == [
        (name, "test", "READY") for name in bundles
    ]


def test_statistics_count_inputs_and_calls(triton: InferenceServerClient, bundles: dict[str, Path]) -> None:
    (before,) = triton.get_inference_statistics("wheel")["model_stats"]
    x = np.repeat(decoded(bundles["wheel"], WINDOW["series"]), 5, axis=0)
    triton.infer("wheel", [tensor(x)])
    (after,) = triton.get_inference_statistics("wheel", "test")["model_stats"]
    assert after["inference_count"] == before["inference_count"] + 5
    assert after["execution_count"] == before["execution_count"] + 1
    run, spent = (s["inference_stats"]["compute_infer"] for s in (before, after))
    assert spent["count"] == run["count"] + 1
    assert spent["ns"] > run["ns"]
    assert [s["name"] for s in triton.get_inference_statistics()["model_stats"]] == list(bundles)


def test_many_at_once_are_each_answered_with_their_own(triton: InferenceServerClient, bundles: dict[str, Path]) -> None:
    xs = [np.repeat(decoded(bundles["digits"], drawing(i)), 1 + i % 3, axis=0) for i in range(12)]
    wanted = [triton.infer("digits", [tensor(x)]).as_numpy("y") for x in xs]
    asked = [triton.async_infer("digits", [tensor(x)], request_id=str(i)) for i, x in enumerate(xs)]
    for i, (one, y) in enumerate(zip(asked, wanted, strict=True)):
        got = one.get_result(timeout=20)
        assert got.get_response()["id"] == str(i)
        np.testing.assert_array_equal(got.as_numpy("y"), y)
    assert len({y.tobytes() for y in wanted}) > 6


def test_classes_by_name_in_either_form(four: Server, triton: InferenceServerClient, bundles: dict[str, Path]) -> None:
    answer = four.client.post("/digits/predict", content=drawing(3)).json()
    x = decoded(bundles["digits"], drawing(3))
    for binary in (False, True):
        outputs = [InferRequestedOutput("y", binary_data=binary, class_count=2)]
        got = triton.infer("digits", [tensor(x)], outputs=outputs).as_numpy("y")
        assert got.shape == (1, 2)
        best = got[0, 0].decode() if binary else str(got[0, 0])
        assert best == f"{answer['confidence']:f}:{answer['label']}:{answer['label']}"


@pytest.mark.parametrize("how", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [False, True])
def test_compressed_requests_are_taken(
    triton: InferenceServerClient, bundles: dict[str, Path], how: str, binary: bool
) -> None:
    x = decoded(bundles["digits"], drawing(3))
    got = triton.infer(
        "digits", [tensor(x, binary=binary)], request_compression_algorithm=how, response_compression_algorithm=how
    )
    np.testing.assert_array_equal(got.as_numpy("y"), triton.infer("digits", [tensor(x)]).as_numpy("y"))


def test_large_json_is_read(triton: InferenceServerClient, bundles: dict[str, Path]) -> None:
    x = np.repeat(decoded(bundles["wheel"], [[1 / 3] * 6] * 15), 8, axis=0)
    wanted = triton.infer("wheel", [tensor(x)]).as_numpy("y")
    padded = tensor(x, binary=False)
    padded._parameters["comment"] = "x" * 100_000  # beyond what the event loop parses itself
    np.testing.assert_array_equal(triton.infer("wheel", [padded]).as_numpy("y"), wanted)


def infer_at(server: Server, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.post("/v2/models/digits/infer", content=content, headers=named)


@pytest.mark.parametrize(
    ("content", "encoding", "status"),
    [
        (gzip.compress(bytes(600_000), mtime=0), "gzip", 413),
        (zlib.compress(GOOD), "deflate", 200),
        (zlib.compress(GOOD)[:-3], "deflate", 400),
        (gzip.compress(GOOD, mtime=0) + b"more", "gzip", 400),
        (b"{}", "gzip", 400),
        (b"{}", "br", 415),
        (b"{}", "gzip, gzip", 415),
        (bytes(600_000), "identity", 413),
    ],
)
def test_what_is_compressed_has_the_same_limits(four: Server, content: bytes, encoding: str, status: int) -> None:
    response = infer_at(four, content, content_encoding=encoding)
    assert response.status_code == status
    assert ("error" in response.json()) == (status != 200)


def test_what_unpacks_to_much_more_takes_no_memory() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(InputTooLarge):
        v2._decompressed(bomb, "gzip", 500_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nothing", 404),
        ("POST", "/v2/models/nothing/infer", 404),
        ("POST", "/v2/models/digits/versions/2/infer", 404),
        ("GET", "/v2/models/digits/versions/2", 404),
        ("GET", "/v2/models/digits/nothing", 404),
        ("GET", "/v2/models/digits/versions", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/health", 404),
        ("POST", "/v2/repository/models/digits/unload", 404),
        ("POST", "/v2/repository/models/digits/load", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("GET", "/v2/trace/setting", 404),
        ("GET", "/v2/models/digits/infer", 405),
        ("DELETE", "/v2/models/digits", 405),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/models/digits/infer", 400),
    ],
)
def test_errors_are_in_the_protocols_form(four: Server, method: str, path: str, status: int) -> None:
    response = four.client.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert response.headers["content-type"] == "application/json"
    assert (response.headers.get("allow") is not None) == (status == 405)


def test_tritons_client_is_told_what_is_wrong(triton: InferenceServerClient) -> None:
    x = np.zeros((9, 8, 8, 1), np.uint8)
    with pytest.raises(InferenceServerException, match="the limit is 8") as too_many:
        triton.infer("digits", [tensor(x)])
    assert too_many.value.status() == "413"
    with pytest.raises(InferenceServerException, match=re.escape("the model takes [-1, 8, 8, 1]")) as wrong:
        triton.infer("digits", [tensor(x[:1, :4])])
    assert wrong.value.status() == "400"


def test_head_is_get_without_its_body(four: Server) -> None:
    got, head = (four.client.request(method, "/v2/models/digits") for method in ("GET", "HEAD"))
    assert head.status_code == 200
    assert head.headers["content-length"] == got.headers["content-length"]
    assert not head.content


@given(st.binary(max_size=200), st.none() | st.text("0123456789-x", max_size=4), st.sampled_from(["", "gzip"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_is_refused_and_nothing_fails(
    four: Server, content: bytes, length: str | None, encoding: str
) -> None:
    headers = {} if length is None else {"inference_header_content_length": length}
    response = infer_at(four, content, content_encoding=encoding, **headers)
    assert 400 <= response.status_code < 500
    assert list(response.json()) == ["error"]


def test_requests_are_counted_by_pattern_and_answers_by_class(four: Server, bundles: dict[str, Path]) -> None:
    x = decoded(bundles["fakenews"], ARTICLE)
    request = {"inputs": [{"name": "x", "shape": x.shape, "datatype": "INT32", "data": x.ravel().tolist()}]}
    counted = [_counts(four)]
    four.client.post("/v2/models/fakenews/infer", json=request)
    counted.append(_counts(four))
    assert counted[1][0] == counted[0][0] + 1
    assert counted[1][1] == counted[0][1] + 1
    assert "fakenews/infer" not in four.client.get("/metrics").text


def _counts(server: Server) -> tuple[float, float]:
    text = server.client.get("/metrics").text
    requests = re.findall(r'proj_requests_total{route="/v2/models/{name}/infer",status="200"} (\S+)', text)
    labels = re.findall(r'proj_predictions_total{label="\w+",model="fakenews"} (\S+)', text)
    return sum(map(float, requests)), sum(map(float, labels))


def test_the_api_describes_the_protocol(four: Server) -> None:
    described = four.client.get("/openapi.json").json()["paths"]
    assert set(v2_openapi.paths()) == {path for path in described if path.startswith("/v2")}
    for path, operations in v2_openapi.paths().items():
        for method, operation in operations.items():
            real = path.replace("{name}", "digits").replace("{version}", "test")
            answer = four.client.request(method, real, content=json.dumps({}) if method == "post" else None)
            assert answer.status_code == (400 if "infer" in path else 200), path
            if method == "get":
                schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
                assert set(schema["required"]) <= set(answer.json())


def test_who_may_not_ask_is_told_in_the_protocols_form(four: Server) -> None:
    for headers, status in (({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)):
        response = four.client.get("/v2/models/digits", headers=headers)
        assert response.status_code == status
        assert list(response.json()) == ["error"]


class Switching:
    """A request's body during whose upload a newer model is switched to."""

    def __init__(self, slot: Slot, newer: infer.Model) -> None:
        self.slot, self.newer = slot, newer

    async def whole(self) -> bytes:
        self.slot.switch(self.newer)
        return GOOD


@pytest.mark.parametrize(
    ("shape", "version", "status", "says"),
    [
        ((8, 8, 1), "", 200, '"model_version":"newer"'),
        ((8, 8, 1), "/versions/test", 404, "no version 'test' any more"),
        ((9, 9, 1), "", 503, "the model was replaced meanwhile"),
    ],
)
def test_a_model_that_is_replaced_within_a_request(
    tmp_path: Path, model: infer.Model, shape: tuple[int, int, int], version: str, status: int, says: str
) -> None:
    newer = infer.load(make_bundle(tmp_path / "newer", shape=shape, version="newer"), threads=1)
    board.create(tmp_path, 1)
    shared = board.Board(tmp_path, 0)
    metrics = Metrics(shared, tmp_path / "metrics", 0)
    told = Settings()
    slot = Slot("digits", model.manifest, model)
    app: Any = SimpleNamespace(slots={"digits": slot}, settings=told, queue=Queue(told, 1, metrics, shared))
    head = Head("POST", f"/v2/models/digits{version}/infer", b"", "", {})
    body: Any = Switching(slot, newer)

    async def ask() -> Reply:
        app.queue.start()
        try:
            return (await v2.answer(app, head, body, Connection()))[0]
        finally:
            app.queue.close()

    reply = asyncio.run(ask())
    assert reply.status == status
    assert says in reply.body.decode()


def test_who_cannot_be_answered_in_time_is_told_when_to_come_again(four: Server) -> None:
    tensor = {"name": "x", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}

    def ask(**parameters: int) -> httpx.Response:
        return four.client.post("/v2/models/slow/infer", json={"parameters": parameters, "inputs": [tensor]})

    late = ask(timeout=1_000)
    assert late.status_code == 503
    assert "deadline" in late.json()["error"]
    assert int(late.headers["retry-after"]) >= 1
    assert ask(timeout=60_000_000).status_code == 200


@pytest.mark.parametrize("draining", [True, False])
def test_a_server_that_is_not_ready_says_so(model: infer.Model, draining: bool) -> None:
    slot = Slot("digits", model.manifest, model if draining else None)
    app: Any = SimpleNamespace(slots={"digits": slot}, settings=Settings(), is_ready=False, draining=draining)
    body: Any = Switching(slot, model)

    def ask(method: str, path: str) -> Reply:
        return asyncio.run(v2.answer(app, Head(method, path, b"", "", {}), body, Connection()))[0]

    for path in ("/v2/health/ready", "/v2/models/digits/ready"):
        reply = ask("GET", path)
        assert reply.status == 503
        assert ("stopping" if draining else "being loaded") in reply.body.decode()
        assert (b"retry-after", b"1") in reply.headers
    assert ask("GET", "/v2/health/live").status == 200
    assert ask("GET", "/v2/models/digits").status == 200
    assert json.loads(ask("POST", "/v2/repository/index").body)[0]["state"] == ("READY" if draining else "LOADING")
    if not draining:
        assert ask("POST", "/v2/models/digits/infer").status == 503


@pytest.mark.slow
def test_who_asks_and_who_reads_the_log_hear_what_ran(folder: Path) -> None:
    pytest.importorskip("openvino")
    bundle = make_bundle(folder / "ran" / "bundle", version="v1")
    tensor = {"name": "x", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}
    with Server(bundle, free_log(folder), engine="openvino", log="json") as server:
        ask = server.client.get
        assert ask("/v2/models/digits").json()["platform"] == "openvino"
        assert ask("/v2/models/digits/config").json()["backend"] == "openvino"
        assert ask("/model").json()["engine"] == "openvino fp32"
        assert server.client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).status_code == 200
        server.wait_for('"route":"/v2/models/{name}/infer"')
        lines = [json.loads(line) for line in server.log.splitlines()]
    assert [line["model"] for line in lines if line.get("route", "").endswith("/infer")] == ["digits@v1"]
    assert sum("agrees with ONNX Runtime" in line["message"] for line in lines) == 1
