"""Settings: the order of their origins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle

from proj.bundle import ServeSettings
from proj.errors import BundleError, ConfigError
from proj.serve.settings import Settings, build, bundle_named


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", serve=ServeSettings(max_batch=3, max_inputs=7))


def make(bundle: Path, yaml: str = "", environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    if yaml:
        (bundle.parent / "serve.yaml").write_text(yaml)
    return build(bundle, flags, environ=environ or {}, folder=bundle.parent)


def test_without_anything_the_bundle_and_the_defaults_hold(bundle: Path) -> None:
    settings = make(bundle, host=None, port=None, allow_host=())
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 0)
    assert (settings.max_batch, settings.max_inputs) == (3, 7)


def test_each_origin_goes_over_the_one_before(bundle: Path) -> None:
    yaml = "max_batch: 4\nport: 1001\nworkers: 2\nhost: 10.0.0.1\nallow_host: [a.example, B.example]\n"
    environ = {"PORT": "1002", "PROJ_SERVE_HOST": "0.0.0.0", "PROJ_SERVE_WORKERS": "3", "PROJ_SERVE_MAX_PIXELS": "99"}
    settings = make(bundle, yaml, environ, workers=4)
    assert (settings.max_inputs, settings.max_batch) == (7, 4)
    assert (settings.port, settings.host, settings.max_pixels) == (1002, "0.0.0.0", 99)
    assert settings.workers == 4
    assert settings.allow_host == ("a.example", "b.example")


def test_the_longer_name_of_a_variable_wins(bundle: Path) -> None:
    assert make(bundle, environ={"PROJ_SERVE_PORT": "1", "PORT": "2"}).port == 1


def test_the_machines_own_name_in_the_environment_opens_nothing(bundle: Path) -> None:
    assert make(bundle, environ={"HOST": "0.0.0.0"}).host == "127.0.0.1"


@pytest.mark.parametrize("word", ["queue_size=8", "max_inputs=80"])
def test_of_two_settings_that_do_not_fit_the_one_that_was_chosen_is_named(tmp_path: Path, word: str) -> None:
    key, value = word.split("=")
    with pytest.raises(ConfigError, match=f"{word} is '{value}'") as error:
        build(make_bundle(tmp_path / "b"), {}, environ={}, folder=tmp_path, words=[word])
    assert key in error.value.found


def test_a_list_in_the_environment_is_separated_by_commas(bundle: Path) -> None:
    assert make(bundle, environ={"PROJ_SERVE_ALLOW_HOST": "a.example, *.b.example,"}).allow_host == (
        "a.example",
        "*.b.example",
    )


def test_what_kubernetes_puts_into_the_environment_is_not_taken_for_settings(bundle: Path) -> None:
    environ = {
        "PROJ_SERVE_SERVICE_HOST": "10.0.0.1",
        "PROJ_SERVE_PORT": "tcp://10.0.0.1:80",
        "PROJ_SERVE_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert make(bundle, environ=environ).port == 8000


def test_a_named_file_takes_the_place_of_the_folders(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("port: 9\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "serve.yaml").write_text("workers: 9\n")
    assert build(bundle, {}, environ={}, folder=tmp_path / "here").workers == 9
    settings = build(bundle, {}, config=other, environ={}, folder=tmp_path / "here")
    assert (settings.port, settings.workers) == (9, 0)


def test_what_was_measured_for_the_bundle_lies_beside_it_and_goes_below_the_folders_own(
    bundle: Path, tmp_path: Path
) -> None:
    (bundle.parent / "serve.yaml").write_text("workers: 3\nthreads: 2\nmax_batch: 8\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "serve.yaml").write_text("threads: 5\n")
    settings = build(bundle, {}, environ={}, folder=tmp_path / "here")
    assert (settings.workers, settings.threads, settings.max_batch) == (3, 5, 8)


def test_what_nobody_chose_at_export_leaves_the_servers_own_defaults(tmp_path: Path) -> None:
    settings = build(make_bundle(tmp_path / "plain"), {}, environ={}, folder=tmp_path)
    assert settings == Settings()


def test_a_bundles_threshold_is_its_own(tmp_path: Path) -> None:
    sure = make_bundle(tmp_path / "sure", serve=ServeSettings(threshold=0.9))
    assert build(sure, {}, environ={}, folder=tmp_path).threshold is None


def test_words_are_settings_by_name_and_go_over_flags(bundle: Path, tmp_path: Path) -> None:
    words = ["connections=7", "allow-host=a.example,b.example", "engine=openvino", "keys=a=b", "rate=0.5"]
    settings = build(bundle, {"port": 9, "rate": 3}, environ={}, folder=tmp_path, words=words)
    assert (settings.connections, settings.port, settings.rate, settings.keys) == (7, 9, 0.5, "a=b")
    assert (settings.engine, settings.allow_host) == ("openvino", ("a.example", "b.example"))
    for word, says in {
        "wrokers=2": "wrokers=2: no such setting.*did you mean workers",
        "workers=many": "workers=many is 'many'",
        "engine=tensorrt": "'onnxruntime' or 'openvino'",
        "port=": "port= is ''",
    }.items():
        with pytest.raises(ConfigError, match=says):
            build(bundle, {}, environ={}, folder=tmp_path, words=[word])


@pytest.mark.parametrize("yaml", ["# nothing\n", "---\n"])
def test_an_empty_file_is_fine(bundle: Path, yaml: str) -> None:
    assert make(bundle, yaml).port == 8000


@pytest.mark.parametrize(
    ("yaml", "environ", "flags", "says"),
    [
        ("prot: 1", {}, {}, "did you mean port?"),
        ("port: eighty", {}, {}, "port in "),
        ("port: true", {}, {}, "yes or no"),
        ("port: 70000", {}, {}, "65535"),
        ("port: 80.5", {}, {}, "80.5"),
        ("host: ''", {}, {}, "host in "),
        ("host: [a]", {}, {}, "host in "),
        ("- port", {}, {}, "holds no settings"),
        ("port: [", {}, {}, "is not YAML"),
        ("port: !!python/object/apply:os.system ['true']", {}, {}, "is not YAML"),
        ("max_upload_mb: .nan", {}, {}, "max_upload_mb"),
        ("max_upload_mb: 0", {}, {}, "greater than 0"),
        ("max_inputs: 300", {}, {}, "queue_size 64"),
        ("queue_size: 2", {}, {}, "queue_size 2"),
        ("", {"PORT": "http"}, {}, "PORT is 'http'"),
        ("", {"PROJ_SERVE_WORKERS": "-1"}, {}, "PROJ_SERVE_WORKERS is '-1'"),
        ("", {"PROJ_SERVE_WORKRES": "2"}, {}, "did you mean workers?"),
        ("", {"PROJ_SERVE_ALLOW_HOST": "http://a.example"}, {}, "is not a host name"),
        ("", {}, {"workers": -1}, "--workers is -1"),
        ("", {}, {"port": "x"}, "--port is 'x'"),
        ("", {}, {"allow_host": ["a b"]}, "--allow-host"),
        ("", {}, {"drain_s": -1}, "--drain-s"),
    ],
)
def test_what_cannot_be_is_refused_with_its_origin(
    bundle: Path, yaml: str, environ: dict[str, str], flags: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        make(bundle, yaml, environ, **flags)
    assert says in str(error.value)
    assert error.value.exit_code == 2


def test_a_named_file_must_be_there(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        build(bundle, {}, config=tmp_path / "none.yaml", environ={})


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        build(tmp_path, {}, environ={})


def test_the_environment_may_name_the_model() -> None:
    assert bundle_named({"MODEL": "/model"}) == "/model"
    assert bundle_named({"MODEL": ""}) is None
