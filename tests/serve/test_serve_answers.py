"""What the server answers to those who ask properly."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle
from serving import Server, drawing, free_log

from proj import infer
from proj.serve import routes, schemas

GETS = ["/", "/docs", "/health", "/ready", "/model", "/metrics", "/openapi.json", "/page/page.js"]


def expected(model: infer.Model, picture: bytes, name: str) -> dict[str, Any]:
    return infer.encode(model, infer.run(model, infer.decode(model, picture)[None])[0], name)


def assert_same(answer: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(answer) == list(wanted)
    assert answer["probabilities"] == pytest.approx(wanted["probabilities"], rel=1e-5)
    assert {**answer, "probabilities": 0, "confidence": 0} == {**wanted, "probabilities": 0, "confidence": 0}


def test_a_file_is_answered_as_infer_answers_it(server: Server, model: infer.Model) -> None:
    answer = server.client.post("/predict", files={"file": ("a photo.png", drawing(1))}).json()
    assert_same(answer, expected(model, drawing(1), "a photo.png"))
    schemas.ClassAnswer.model_validate(answer)


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "application/octet-stream", None])
def test_a_raw_body_is_one_input_whatever_picture_it_says_to_be(
    server: Server, model: infer.Model, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = server.client.post("/predict", content=drawing(2), headers=headers).json()
    assert_same(answer, expected(model, drawing(2), "body"))


def test_several_files_are_answered_in_order_and_a_broken_one_in_its_place(server: Server, model: infer.Model) -> None:
    pictures = [drawing(1), b"no picture", drawing(3, kind="WEBP"), b""]
    files = [("file", (f"{i}.png", content)) for i, content in enumerate(pictures)]
    response = server.client.post("/predict", files=files)
    answers = response.json()["predictions"]
    assert response.status_code == 200
    assert_same(answers[0], expected(model, pictures[0], "0.png"))
    assert_same(answers[2], expected(model, pictures[2], "2.png"))
    assert answers[1].keys() == answers[3].keys() == {"input", "error"}
    assert (answers[1]["input"], answers[3]["input"]) == ("1.png", "3.png")
    assert "not a picture" in answers[1]["error"]
    assert "empty" in answers[3]["error"]
    schemas.ClassAnswers.model_validate(response.json())


def test_everyone_gets_their_own_answer_when_many_ask_at_once(server: Server, model: infer.Model) -> None:
    def ask(seed: int) -> dict[str, Any]:
        answer: dict[str, Any] = server.client.post("/predict", files={"file": (str(seed), drawing(seed))}).json()
        return answer

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(60)))
    for seed, answer in enumerate(answers):
        assert_same(answer, expected(model, drawing(seed), str(seed)))


def test_file_names_come_back_as_they_were(server: Server) -> None:
    name = '../../etc/"ä" <b>.png'
    answer = server.client.post("/predict", files={"file": (name, drawing())}).json()
    assert answer["input"] == name


def test_values_come_with_their_units_and_a_warning_where_the_model_learned_nothing(folder: Path) -> None:
    names, units = ("calories", "mass"), ("kcal", "g")
    bundle = make_bundle(
        folder / "nutrition", kind="values", names=names, units=units, shape=(16, 16, 3), fit="squash",
        page_input="photo", name="nutrition", synthetic=True,
    )  # fmt: skip
    with Server(bundle, free_log(folder)) as server:
        answer = server.client.post("/predict", files={"file": ("plate.png", drawing())}).json()
        facts = server.client.get("/model").json()
        metrics = server.client.get("/metrics").text
        warned = server.log
    schemas.ValuesAnswer.model_validate(answer)
    assert {n: v["unit"] for n, v in answer["values"].items()} == dict(zip(names, units, strict=True))
    assert answer["warning"] == facts["warning"]
    assert "synthetic data" in answer["warning"]
    assert "synthetic data" in warned
    assert 'proj_prediction_value_count{model="nutrition",target="mass"} 1.0' in metrics


def test_health_and_ready(server: Server) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    ready = {"status": "ready", "model": "digits@test", "models": ["digits@test"]}
    assert server.client.get("/ready").json() == ready


def test_model_tells_the_bundle_facts_without_the_example(server: Server) -> None:
    facts = server.client.get("/model").json()
    schemas.ModelFacts.model_validate(facts)
    assert facts["model"] == "digits@test"
    assert facts["names"] == list("0123456789")
    assert facts["preprocess"]["ink_px"] == 8
    assert facts["warning"] is None
    assert facts["limits"] == {"max_upload_mb": 0.5, "max_inputs": 8, "max_pixels": 1_000_000}
    assert "base64" not in str(facts)


@pytest.mark.parametrize("path", GETS)
def test_head_works_where_get_does(server: Server, path: str) -> None:
    got, head = server.client.get(path), server.client.head(path)
    assert got.status_code == head.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # which the requests themselves change
        assert head.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize("path", GETS)
def test_every_answer_forbids_what_the_page_does_not_need(server: Server, path: str) -> None:
    headers = server.client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("range", ["bytes=0-3", "https://evil.example", "bytes=9-1"])
def test_a_range_is_ignored_as_it_may_be(server: Server, range: str) -> None:
    answer = server.client.get("/docs", headers={"Range": range})
    assert answer.status_code == 200
    assert answer.content == server.client.get("/docs").content


def test_openapi_describes_every_route_and_its_problems(server: Server) -> None:
    api = server.client.get("/openapi.json").json()
    own = {path: operations for path, operations in api["paths"].items() if not path.startswith("/v2")}
    assert set(own) == {"/predict", "/health", "/ready", "/model", "/models", "/metrics"}
    assert "/v2/models/{name}/infer" in api["paths"]
    for operations in own.values():
        for operation in operations.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
    body = api["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    references = set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', server.client.get("/openapi.json").text))
    assert references <= set(api["components"]["schemas"])


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for path in routes.PAGE.iterdir():
        name, source = path.name, path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|@import", source), name
        assert "innerHTML" not in source, name
        assert not re.search(r"<script>|<style|\son\w+=|style=", source), name


def test_everything_the_page_asks_for_is_there(server: Server) -> None:
    for page in ("/", "/docs"):
        html = server.client.get(page).text
        wanted = re.findall(r'(?:src|href)="([^"#]+)"', html)
        assert len(wanted) >= 4
        for path in wanted:
            assert server.client.get("/" + path.removeprefix(".")).status_code == 200, path


def test_every_file_of_the_page_is_served_and_what_it_imports_is_there(server: Server) -> None:
    names = {path.name for path in routes.PAGE.iterdir()}
    assert {"index.html", "models.html", "docs.html", "page.js"} <= names
    for name in names:
        if name.endswith(".html"):
            continue
        got = server.client.get(f"/page/{name}")
        assert got.content == (routes.PAGE / name).read_bytes()
        assert set(re.findall(r'from "\./([^"]+)"', got.text)) <= names


def test_metrics_count_requests_answers_and_unreadable_inputs_of_all_workers(folder: Path, digits: Path) -> None:
    with Server(digits, free_log(folder), workers=2) as server:
        labels = []
        for seed in range(12):  # a connection each, so that both workers get some
            answer = server.client.post(
                "/predict", files={"file": ("x", drawing(seed))}, headers={"Connection": "close"}
            )
            labels.append(answer.json()["label"])
        server.client.post("/predict", content=b"junk")
        server.client.get("/strange/path")
        text = server.client.get("/metrics").text
    assert 'proj_requests_total{route="/predict",status="200"} 12.0' in text
    assert 'proj_requests_total{route="/predict",status="415"} 1.0' in text
    assert 'proj_requests_total{route="other",status="404"} 1.0' in text
    assert "strange" not in text
    assert 'proj_request_seconds_count{route="/predict"} 13.0' in text
    assert 'proj_unreadable_inputs_total{model="digits"} 1.0' in text
    assert "proj_queue_depth 0.0" in text
    assert 'model="digits",task="digits",version="test"}' in text
    for label in set(labels):
        assert f'proj_predictions_total{{label="{label}",model="digits"}} {labels.count(label)}.0' in text
