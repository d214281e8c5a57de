"""Texts, series and several views over HTTP: every way to send them ends in what `infer` answers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import ARTICLES, FORCES, as_csv, make_bundle, make_series_bundle, make_text_bundle, window
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Server, drawing, free_log
from test_serve_bad_uploads import assert_problem

from proj import infer
from proj.bundle import ServeSettings
from proj.preprocess.spec import SeriesSpec
from proj.serve import schemas

SPEC = SeriesSpec(steps=15, channels=FORCES)
ONE, TWO = window(3, SPEC), window(4, SPEC)
ARTICLE = ARTICLES[0].body
LONG = {"title": "A long one", "text": "The committee met again on Tuesday. " * 40}
MANY_KEYS = b"{" + b",".join(b'"k%d":0' % i for i in [*range(8_001), 8_000]) + b"}"
QUICK = settings(max_examples=80, deadline=None)


def typed(content: bytes, content_type: str = "application/json") -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": content_type}}


def npy(x: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, x)
    return out.getvalue()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Served:
    """A running server and the same bundle in this process."""

    def __init__(self, bundle: Path, server: Server) -> None:
        self.model, self.server = infer.load(bundle, threads=1), server

    def post(self, **request: Any) -> Any:
        return self.server.client.post("/predict", **request)

    def expected(self, source: Any, name: str) -> dict[str, Any]:
        x = infer.batch([infer.decode(self.model, source)])
        return infer.encode(self.model, infer.run(self.model, x)[0], name)

    def check(self, answer: dict[str, Any], source: Any, name: str) -> None:
        wanted = self.expected(source, name)
        assert list(answer) == list(wanted)
        assert answer["probabilities"] == pytest.approx(wanted["probabilities"], rel=1e-4, abs=1e-6)
        assert {**answer, "probabilities": 0, "confidence": 0} == {**wanted, "probabilities": 0, "confidence": 0}
        schemas.ClassAnswer.model_validate(answer)


def served(folder: Path, bundle: Path, **flags: Any) -> Iterator[Served]:
    with Server(bundle, free_log(folder), max_upload_mb=0.5, max_inputs=8, **flags) as running:
        yield Served(bundle, running)
        assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="module")
def texts(folder: Path) -> Iterator[Served]:
    yield from served(folder, make_text_bundle(folder / "texts"))


@pytest.fixture(scope="module")
def series(folder: Path) -> Iterator[Served]:
    yield from served(folder, make_series_bundle(folder / "series"))


@pytest.fixture(scope="module")
def views(folder: Path) -> Iterator[Served]:
    bundle = make_bundle(folder / "views", views=3, shape=(16, 16, 3), fit="squash", page_input="photo", name="plates")
    yield from served(folder, bundle)


# --- texts


@pytest.mark.parametrize("encoding", ["hash", "tokenizer"])
def test_texts_by_json_body_and_file(folder: Path, encoding: Any, texts: Served) -> None:
    if encoding == "tokenizer":
        bundle = make_text_bundle(folder / "tokens", encoding="tokenizer")
        served_here = served(folder, bundle)
        texts = next(served_here)
    texts.check(texts.post(json=ARTICLE).json(), ARTICLE, "body")
    texts.check(texts.post(json={"text": "Alone."}).json(), "Alone.", "body")
    plain = {"Content-Type": "text/plain; charset=utf-8"}
    texts.check(texts.post(content="Grüße, alone.", headers=plain).json(), "Grüße, alone.", "body")
    texts.check(texts.post(files={"file": ("a.txt", b"In a file.")}).json(), "In a file.", "a.txt")
    if encoding == "tokenizer":
        served_here.close()


def test_a_text_without_a_content_type_is_taken_as_text(texts: Served) -> None:
    texts.check(texts.post(content=b"Just bytes.").json(), "Just bytes.", "body")


def test_several_texts_of_different_length_get_each_their_own_answer(texts: Served) -> None:
    """Whatever stands beside it in a batch, a text's answer is that which it has alone."""
    bodies = [ARTICLE, LONG, {"text": "x"}, {"text": ""}, LONG]
    answers = texts.post(json={"inputs": bodies}).json()["predictions"]
    for i in (0, 1, 2, 4):
        texts.check(answers[i], bodies[i], f"inputs[{i}]")
    assert answers[3].keys() == {"input", "error"}
    files = [
        ("file", ("a.txt", b"one")),
        ("file", ("b.txt", b"\xff\xfe\xfd")),
        ("file", ("c.txt", b"three words here")),
    ]
    answers = texts.post(files=files).json()["predictions"]
    assert [a["input"] for a in answers] == ["a.txt", "b.txt", "c.txt"]
    assert "UTF-8" in answers[1]["error"]
    texts.check(answers[2], "three words here", "c.txt")


def test_a_list_of_one_is_answered_as_a_list(texts: Served) -> None:
    answers = texts.post(json={"inputs": [ARTICLE]}).json()
    texts.check(answers["predictions"][0], ARTICLE, "inputs[0]")
    schemas.ClassAnswers.model_validate(answers)


BAD_TEXTS: dict[str, tuple[int, dict[str, Any], str]] = {
    "no body": (422, {}, "empty"),
    "empty text": (422, {"json": {"text": " \n"}}, "empty"),
    "empty JSON body": (422, typed(b""), "empty"),
    "no JSON": (400, typed(b'{"text": '), "not JSON"),
    "two documents": (400, typed(b"{}{}"), "not JSON"),
    "a list": (422, {"json": [ARTICLE]}, "not an object"),
    "null": (422, typed(b"null"), "null"),
    "unknown field": (422, {"json": {"text": "a", "subject": "b"}}, "'subject'; known: 'title', 'text'"),
    "title alone": (422, {"json": {"title": "a"}}, "'text' is missing"),
    "number": (422, {"json": {"text": 1}}, "'text' is not a text"),
    "list as text": (422, {"json": {"title": ["a"], "text": "b"}}, "'title' is not a text"),
    "a key twice": (
        422,
        typed(b'{"text": "a", "text": "b"}'),
        "'text' twice",
    ),
    "a key twice among many": (422, typed(MANY_KEYS), "'k8000' twice"),
    "inputs and more": (422, {"json": {"inputs": [ARTICLE], "text": "a"}}, "'text'"),
    "inputs empty": (422, {"json": {"inputs": []}}, "an empty list"),
    "inputs no list": (422, {"json": {"inputs": ARTICLE}}, "an object"),
    "too many inputs": (413, {"json": {"inputs": [ARTICLE] * 9}}, "8"),
    "too long": (413, {"json": {"text": "a" * 600_000}}, "0.5 MB"),
    "no UTF-8": (422, typed(b"\xff\xfe", "text/plain"), "UTF-8"),
    "other charset": (
        415,
        typed(b"a", "text/plain; charset=latin-1"),
        "latin-1",
    ),
    "picture": (415, typed(drawing(), "image/png"), "text/plain"),
    "picture as a file": (422, {"files": {"file": ("a.png", drawing())}}, "UTF-8"),
    "views": (400, {"files": {"views": ("a.txt", b"a")}}, "'views'"),
    "deep": (422, typed(b'{"a":' * 50_000), "deep"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_bad_text_is_a_problem(texts: Served, name: str) -> None:
    status, request, says = BAD_TEXTS[name]
    assert says in assert_problem(texts.post(**request), status)["detail"]
    assert texts.post(json=ARTICLE).status_code == 200


# --- series


def test_far_too_many_values_between_texts_are_refused_before_they_are_read(texts: Served) -> None:
    """Commas within texts are none of them."""
    json_type = {"Content-Type": "application/json"}
    for values in (b"1," * 200_000 + b"1", b"[]," * 100_000 + b"[]", b'"",' * 100_000 + b'"a"'):
        refused = texts.post(content=b'{"inputs":[' + values + b"]}", headers=json_type)
        assert refused.status_code == 413
        assert "too many values" in refused.json()["detail"]
    full = {"text": 'a "b", \\' + "1, 2," * 50_000}
    texts.check(texts.post(json=full).json(), full["text"], "body")
    wide = json.dumps({"text": "one, " * 20_000}).encode("utf-16")
    assert texts.post(content=wide, headers=json_type).status_code == 200


def test_far_too_many_numbers_are_refused_before_they_are_read(series: Served) -> None:
    numbers = b'{"series":[' + b"1," * 200_000 + b"1]}"
    refused = series.post(content=numbers, headers={"Content-Type": "application/json"})
    assert refused.status_code == 413
    assert "200000" in refused.json()["detail"]


def test_series_by_json_csv_npy_and_files(series: Served) -> None:
    by_channel = {c: ONE[:, i].tolist() for i, c in enumerate(FORCES)}
    turned = dict(reversed(by_channel.items()))
    csv, sent = as_csv(ONE), {"Content-Type": "text/csv"}
    series.check(series.post(json={"series": ONE.tolist()}).json(), ONE, "body")
    series.check(series.post(json={"series": by_channel}).json(), ONE, "body")
    series.check(series.post(json={"series": turned}).json(), ONE, "body")
    series.check(series.post(content=csv, headers=sent).json(), ONE, "body")
    series.check(series.post(content=npy(ONE)).json(), ONE, "body")
    series.check(series.post(files={"file": ("w.csv", csv)}).json(), ONE, "w.csv")
    files = [("file", ("a.npy", npy(TWO))), ("file", ("b.csv", b"no,numbers")), ("file", ("c.csv", csv))]
    answers = series.post(files=files).json()["predictions"]
    series.check(answers[0], TWO, "a.npy")
    assert answers[1].keys() == {"input", "error"}
    series.check(answers[2], ONE, "c.csv")
    several = {"inputs": [{"series": TWO.tolist()}, {"series": [[1]]}, {"sries": 1}, {"series": ONE.tolist()}]}
    answers = series.post(json=several).json()["predictions"]
    series.check(answers[0], TWO, "inputs[0]")
    series.check(answers[3], ONE, "inputs[3]")
    assert "'sries'" in answers[2]["error"]


def test_the_bundles_own_samples_are_answered(series: Served, texts: Served) -> None:
    for one in (series, texts):
        samples = one.server.client.get("/model").json()["samples"]
        assert len(samples) == 2
        for sample in samples:
            assert one.post(json=sample["body"]).status_code == 200


def with_number(text: str) -> dict[str, Any]:
    """JSON of a window whose first number is `text`."""
    raw = json.dumps({"series": ONE.tolist()}).replace("[[", "[[" + text + ", ", 1)
    first = raw.index(text) + len(text)
    return {
        "content": raw[:first] + raw[raw.index(",", first + 1) :],
        "headers": {"Content-Type": "application/json"},
    }


BAD_SERIES: dict[str, tuple[int, dict[str, Any], str]] = {
    "no body": (422, {}, "empty"),
    "a step too few": (422, {"json": {"series": ONE[1:].tolist()}}, "15"),
    "a channel too many": (422, {"json": {"series": np.c_[ONE, ONE[:, :1]].tolist()}}, "6"),
    "ragged": (422, {"json": {"series": [[1, 2], [1]]}}, ""),
    "words": (422, {"json": {"series": [["a"] * 6] * 15}}, ""),
    "null": (422, {"json": {"series": None}}, "null"),
    "a number": (422, {"json": {"series": 3}}, "a number"),
    "missing": (422, {"json": {}}, "missing"),
    "a channel too long": (422, {"json": {"series": dict.fromkeys(FORCES, [1] * 16)}}, "'Fx' has 16 steps"),
    "a step too wide": (422, {"json": {"series": [[1] * 6] * 14 + [[1] * 7]}}, "step 14 of 'series' has 7"),
    "steps without end": (422, {"json": {"series": [0] * 5_000}}, "5000 steps"),
    "missing channel": (422, {"json": {"series": {"Fx": [1] * 15}}}, "Fy"),
    "unknown field": (422, {"json": {"series": [], "rate": 1}}, "'rate'"),
    "NaN": (422, with_number("NaN"), "NaN"),
    "Infinity": (422, with_number("-Infinity"), "Infinity"),
    "a number without end": (422, with_number("1e999"), ""),
    "more digits than Python reads": (422, with_number("9" * 5000), ""),
    "pickle": (422, {"content": npy(np.array([{}], object))}, ""),
    "npy cut off": (422, {"content": npy(ONE)[:-4]}, ""),
    "npy of words": (422, {"content": npy(np.full((15, 6), "a"))}, ""),
    "picture": (415, {"content": drawing()}, ""),
    "empty CSV": (422, typed(b"\n", "text/csv"), "empty"),
    "text": (415, typed(b"a", "text/plain"), "text/csv"),
}


@pytest.mark.parametrize("name", BAD_SERIES)
def test_a_bad_series_is_a_problem(series: Served, name: str) -> None:
    status, request, says = BAD_SERIES[name]
    assert says in assert_problem(series.post(**request), status)["detail"]
    assert series.post(content=npy(ONE)).status_code == 200


# --- pictures, and several views of one thing


def test_pictures_in_json(server: Server, model: infer.Model) -> None:
    answer = server.client.post("/predict", json={"image": b64(drawing(1))}).json()
    url = server.client.post("/predict", json={"image": "data:image/png;base64," + b64(drawing(1))}).json()
    assert answer == url
    wanted = infer.encode(model, infer.run(model, infer.decode(model, drawing(1))[None])[0], "body")
    assert answer["probabilities"] == pytest.approx(wanted["probabilities"], rel=1e-4)
    several = {"inputs": [{"image": b64(drawing(1))}, {"image": ""}, {"image": "!"}, {"image": b64(drawing(2))}]}
    answers = server.client.post("/predict", json=several).json()["predictions"]
    assert ["error" in a for a in answers] == [False, True, True, False]


def test_views_are_one_input_and_files_are_several(views: Served) -> None:
    pictures = [drawing(i) for i in range(3)]
    parts = [("views", (f"{i}.png", p)) for i, p in enumerate(pictures)]
    views.check(views.post(files=parts).json(), pictures, "0.png, 1.png, 2.png")
    views.check(views.post(files=parts[:2]).json(), pictures[:2], "0.png, 1.png")
    views.check(views.post(json={"views": [b64(p) for p in pictures]}).json(), pictures, "body")
    views.check(views.post(json={"image": b64(pictures[1])}).json(), pictures[1], "body")
    views.check(views.post(content=pictures[2]).json(), pictures[2], "body")
    answers = views.post(files=[("file", name_and_bytes) for _, name_and_bytes in parts]).json()["predictions"]
    for answer, picture, i in zip(answers, pictures, range(3), strict=True):
        views.check(answer, picture, f"{i}.png")


BAD_VIEWS: dict[str, tuple[int, dict[str, Any], str]] = {
    "too many": (422, {"files": [("views", (f"{i}.png", drawing(i))) for i in range(4)]}, "1 to 3"),
    "too many in JSON": (422, {"json": {"views": [b64(drawing())] * 4}}, "1 to 3"),
    "none": (422, {"json": {"views": []}}, "an empty list"),
    "both in JSON": (422, {"json": {"views": [b64(drawing())], "image": b64(drawing())}}, "'image', 'views'"),
    "both in a form": (400, {"files": [("views", ("a", drawing())), ("file", ("b", drawing()))]}, "`views`"),
    "one of them broken": (415, {"files": [("views", ("a", drawing())), ("views", ("b", b"x"))]}, "not a picture"),
    "no base64": (422, {"json": {"views": ["a", "%%%"]}}, "views[0]"),
}


@pytest.mark.parametrize("name", BAD_VIEWS)
def test_bad_views_are_a_problem(views: Served, name: str) -> None:
    status, request, says = BAD_VIEWS[name]
    assert says in assert_problem(views.post(**request), status)["detail"]


def test_a_model_of_one_picture_takes_no_views(server: Server) -> None:
    two = [("views", ("a.png", drawing(1))), ("views", ("b.png", drawing(2)))]
    assert "the model takes 1" in assert_problem(server.client.post("/predict", files=two), 422)["detail"]
    assert "'views'" in assert_problem(server.client.post("/predict", json={"views": [b64(drawing())]}), 422)["detail"]


# --- whatever JSON comes

LEAVES = st.none() | st.booleans() | st.floats(width=32) | st.integers() | st.text(max_size=8)
NAMES = st.sampled_from(["text", "title", "series", "image", "views", "inputs", "Fx", ""]) | st.text(max_size=4)
ANY = st.recursive(LEAVES, lambda t: st.lists(t, max_size=4) | st.dictionaries(NAMES, t, max_size=4), max_leaves=12)
NEAR = st.fixed_dictionaries({"inputs": st.lists(st.dictionaries(NAMES, ANY, max_size=2), min_size=1, max_size=4)})
OBJECTS = st.dictionaries(NAMES, ANY, max_size=3) | NEAR | ANY


@QUICK
@given(content=OBJECTS.map(json.dumps).map(str.encode) | st.binary(max_size=60))
def test_no_json_is_a_fault_of_the_server(
    texts: Served, series: Served, views: Served, server: Server, content: bytes
) -> None:
    for client in (texts.server.client, series.server.client, views.server.client, server.client):
        response = client.post("/predict", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code in {200, 400, 413, 415, 422}, response.text
        kind = "application/json" if response.status_code == 200 else "application/problem+json"
        assert response.headers["content-type"] == kind


# --- holding back


def test_below_the_threshold_an_answer_has_no_label(folder: Path) -> None:
    bundle = make_text_bundle(folder / "careful", serve=ServeSettings(threshold=0.2))
    with Server(bundle, free_log(folder), threshold=1.0) as server:  # the flag goes over the bundle
        answer = server.client.post("/predict", json=ARTICLE).json()
        facts = server.client.get("/model").json()
        metrics = server.client.get("/metrics").text
        api = server.client.get("/openapi.json").json()
    assert answer["label"] is None
    assert answer["not_sure"] is True
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["confidence"] == max(answer["probabilities"].values())
    assert facts["threshold"] == 1.0
    schemas.ClassAnswer.model_validate(answer)
    assert 'proj_predictions_total{label="not_sure",model="fakenews"} 1.0' in metrics
    assert {"type": "null"} in api["components"]["schemas"]["ClassAnswer"]["properties"]["label"]["anyOf"]


def test_the_bundles_own_threshold_holds_where_nothing_is_said(folder: Path) -> None:
    bundle = make_text_bundle(folder / "careful2", serve=ServeSettings(threshold=1.0))
    with Server(bundle, free_log(folder)) as server:
        assert server.client.post("/predict", json=ARTICLE).json()["label"] is None


# --- what the server says of itself


def test_openapi_describes_the_body_of_the_models_own_kind(texts: Served, series: Served, views: Served) -> None:
    bodies = {
        one: one.server.client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
        for one in (texts, series, views)
    }
    assert set(bodies[texts]) == {"multipart/form-data", "application/json", "text/plain"}
    assert set(bodies[series]) == {"multipart/form-data", "application/json", "text/csv", "application/octet-stream"}
    assert set(bodies[views]) == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    assert set(bodies[views]["multipart/form-data"]["schema"]["properties"]) == {"file", "views"}
    assert set(bodies[texts]["multipart/form-data"]["schema"]["properties"]) == {"file"}


@pytest.mark.parametrize("kind", ["texts", "series", "views", "server"])
def test_the_examples_of_openapi_fit_their_schema_and_are_answered(kind: str, request: pytest.FixtureRequest) -> None:
    one = request.getfixturevalue(kind)
    client = one.client if kind == "server" else one.server.client
    api = client.get("/openapi.json").json()
    body = api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        assert fits(body["schema"], example["value"]), example
        answer = client.post("/predict", json=example["value"])
        assert answer.status_code == 200, answer.text
        assert "error" not in answer.text


def fits(schema: dict[str, Any], value: Any) -> bool:
    """JSON Schema, as far as the bodies use it."""
    if "anyOf" in schema:
        return any(fits(one, value) for one in schema["anyOf"])
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "number": int | float}
    if not isinstance(value, kinds[schema["type"]]):
        return False
    if schema["type"] == "object":
        known = schema["properties"]
        names = set(schema["required"]) <= set(value) <= set(known)
        return names and all(fits(known[k], v) for k, v in value.items())
    if schema["type"] == "array":
        sizes = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9)
        return sizes and all(fits(schema["items"], v) for v in value)
    return True


def test_what_is_no_http_is_a_problem_too(server: Server) -> None:
    import socket

    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"HELLO\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["status"] == 400
