"""Config files and overrides to a checked config: grammar, precedence, origins, and everything that can be wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from commands import ROOT, call, contents, make_project
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proj import compose, config, task
from proj.compose import Composed
from proj.errors import ConfigError, ProjError, UsageError
from proj.verbs.job import options_of

CONFIGS = ROOT / "configs"
HEADER = "# @package _global_\n"


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A copy of the configs with numbers of the test's own, so that no test depends on those that the tasks need."""
    folder = tmp_path / "configs"
    for group in ("model", "trainer", "track", "serve", "task", "recipe", "experiment"):
        (folder / group).mkdir(parents=True)
    shutil.copy(CONFIGS / "config.yaml", folder)
    files = {
        "model/small.yaml": "backbone: resnet10t\nlr: 2e-3\n",
        "model/pretrained.yaml": "backbone: mobilenetv3_small_100\npretrained: true\n",
        "trainer/default.yaml": "max_epochs: 30\nbatch_size: 64\n",
        "track/csv.yaml": "kind: csv\n",
        "track/wandb.yaml": "kind: wandb\n",
        "serve/default.yaml": "max_batch: 8\n",
        "task/digits.yaml": "# @package _global_\ndefaults:\n  - override /model: small\ntask:\n  name: digits\n",
        "task/trashnet.yaml": HEADER + "defaults:\n  - override /model: pretrained\ntask:\n  name: trashnet\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def composed(configs: Path, *overrides: str) -> Composed:
    return compose.compose(list(overrides), configs, options_of)


# Grammar


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["model.lr=1e-3"], "lr", 1e-3),
        (["+model.lr=0.5"], "lr", 0.5),
        (["++model.lr=0.5"], "lr", 0.5),
        (["model.lr='0.5'"], "lr", 0.5),
        (["model.lr=1", "model.lr=2"], "lr", 2.0),
        (["~model.lr"], "lr", config.Model().lr),
        (["model.lr=5", "~model.lr"], "lr", config.Model().lr),
        (["~model.lr", "model.lr=5"], "lr", 5.0),
        (["~model.lr=2e-3"], "lr", config.Model().lr),
        (["model.freeze=true"], "freeze", True),
        (["model.freeze=on"], "freeze", True),
        (["model.input_size_px=1_000"], "input_size_px", 1000),
        (["model.backbone='a, b=c ~é'"], "backbone", "a, b=c ~é"),
        (['model.backbone="it\'s"'], "backbone", "it's"),
        (["model.backbone=a b"], "backbone", "a b"),
        (["model.backbone=32"], "backbone", "32"),
        (["model.weights=${model.backbone}.pt"], "weights", "resnet10t.pt"),
        (["model.weights="], "weights", ""),
        (["model=pretrained"], "backbone", "mobilenetv3_small_100"),
        (["model=pretrained", "model=small"], "backbone", "resnet10t"),
        (["+model=pretrained"], "backbone", "mobilenetv3_small_100"),
    ],
    ids=str,
)
def test_the_grammar_is_hydras(configs: Path, words: list[str], key: str, value: object) -> None:
    assert getattr(composed(configs, *words).config.model, key) == value


def test_a_key_that_no_file_sets_can_be_deleted(configs: Path) -> None:
    c = composed(configs, "~data.source")
    assert (c.config.data.source, c.origins["data.source"]) == ("default", "default")


def test_a_task_brings_its_own_options_and_model(configs: Path) -> None:
    c = composed(configs, "task=trashnet", "task.block=3")
    assert vars(c.config.task)["block"] == 3
    assert type(c.config.task) is task.get("trashnet").options
    assert c.config.model.pretrained
    assert not composed(configs, "task=trashnet", "model=small").config.model.pretrained


# Precedence: config.yaml < group < task < recipe < experiment < command line


def test_later_layers_win_and_origins_say_which(configs: Path) -> None:
    def set_lr(file: str, lr: float) -> None:
        path = configs / file
        text = path.read_text(encoding="utf-8") if path.exists() else "# @package _global_\n"
        path.write_text(f"{text}\nmodel:\n  lr: {lr}\n", encoding="utf-8")

    words = ["task=digits", "model=small"]
    (configs / "model" / "small.yaml").write_text("backbone: resnet10t\n", encoding="utf-8")
    assert composed(configs, *words).origins["model.lr"] == "default"
    set_lr("config.yaml", 0.1)
    c = composed(configs, *words)
    assert (c.config.model.lr, c.origins["model.lr"]) == (0.1, "configs/config.yaml")
    (configs / "model" / "small.yaml").write_text("lr: 0.2\n", encoding="utf-8")
    c = composed(configs, *words)
    assert (c.config.model.lr, c.origins["model.lr"]) == (0.2, "configs/model/small.yaml")
    for lr, file in ((0.3, "task/digits.yaml"), (0.4, "recipe/digits-small.yaml"), (0.5, "experiment/mine.yaml")):
        set_lr(file, lr)
        words += ["experiment=mine"] if file.startswith("experiment") else []
        c = composed(configs, *words)
        assert (c.config.model.lr, c.origins["model.lr"]) == (lr, f"configs/{file}")
    c = composed(configs, *words, "model.lr=0.6")
    assert (c.config.model.lr, c.origins["model.lr"]) == (0.6, "command line")
    c = composed(configs, *words, "~model.lr")
    assert (c.config.model.lr, c.origins["model.lr"]) == (config.Model().lr, "default")


def test_a_recipe_is_of_one_task_with_one_model(configs: Path) -> None:
    recipe = configs / "recipe" / "digits-small.yaml"
    recipe.write_text("# @package _global_\nseed: 9\n", encoding="utf-8")
    assert composed(configs).config.seed == 9
    assert composed(configs, "model=pretrained").config.seed == 0
    assert composed(configs, "task=trashnet", "model=small").config.seed == 0


def test_an_experiment_chooses_groups_and_a_file_that_it_names_is_its_origin(configs: Path) -> None:
    (configs / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /task: trashnet\n  - override /track: wandb\nseed: 3\n", "utf-8"
    )
    c = composed(configs, "experiment=mine")
    assert (c.config.task.name, c.config.track.kind, c.config.seed) == ("trashnet", "wandb", 3)
    assert c.origins["track.kind"] == "configs/track/wandb.yaml"
    for back in ("experiment=null", "~experiment"):
        assert composed(configs, "experiment=mine", back).config.seed == 0


def test_every_leaf_has_an_origin(configs: Path) -> None:
    c = composed(configs, "task=trashnet")
    assert set(c.origins) == set(config.keys(task.get("trashnet").options))


# The files of this repository


def choices() -> list[str]:
    return [f"{group}={name}" for group, names in config.groups(CONFIGS).items() for name in names]


@pytest.mark.parametrize("choice", choices())
def test_every_config_file_composes(choice: str) -> None:
    # A recipe may set all that a group's file sets, so that with some task its numbers show.
    file = f"configs/{choice.replace('=', '/')}.yaml"
    with_each_task = ([choice], *([f"task={name}", choice] for name in task.available()))
    assert any(file in composed(CONFIGS, *words).origins.values() for words in with_each_task)


@pytest.mark.parametrize("recipe", sorted(p.stem for p in (CONFIGS / "recipe").glob("*.yaml")))
def test_every_recipe_is_one_that_its_task_and_model_reach(recipe: str) -> None:
    name, _, model = recipe.partition("-")
    c = composed(CONFIGS, f"task={name}", f"model={model}")
    assert f"configs/recipe/{recipe}.yaml" in c.origins.values()


@pytest.mark.parametrize(
    "path", [*CONFIGS.glob("task/*.yaml"), *CONFIGS.glob("experiment/*.yaml")], ids=lambda p: p.stem
)
def test_task_and_experiment_files_open_with_their_record(path: Path) -> None:
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for entry in ("command", "score", "minutes", "seed"):
        lines = [line for line in head if line.startswith(f"# {entry}:")]
        assert len(lines) >= 1, f"{path} does not say its {entry}"
        assert lines[0].partition(":")[2].strip()


def test_every_task_has_its_file_and_the_other_way_round() -> None:
    assert config.groups(CONFIGS)["task"] == task.available()


# What is wrong in a file is said with the file's name

TASK = "# @package _global_\ntask:\n  name: "
BAD_FILES: dict[str, tuple[str, str | bytes | None, str]] = {
    "not YAML": ("model/small.yaml", "backbone: [a\nlr: }", "not a config's YAML"),
    "a tab": ("task/digits.yaml", "# @package _global_\ntask:\n\tname: digits\n", "not a config's YAML"),
    "two documents": ("model/small.yaml", "lr: 1\n---\nlr: 2\n", "not a config's YAML"),
    "doubled key": ("model/small.yaml", "lr: 1\nlr: 2\n", "duplicate key lr"),
    "a NUL": ("model/small.yaml", b"backbone: a\x00b\n", "not a config's YAML"),
    "not UTF-8": ("model/small.yaml", b"backbone: \xff\xfe\n", "not UTF-8"),
    "UTF-16": ("model/small.yaml", "lr: 1\n".encode("utf-16"), "not UTF-8"),
    "empty": ("model/small.yaml", "", "sets nothing"),
    "comments only": ("trainer/default.yaml", "# nothing\n", "sets nothing"),
    "a list": ("model/small.yaml", "- a\n- b\n", "holds a list"),
    "a word": ("model/small.yaml", "hello\n", "model.hello"),
    "nested deep": ("model/small.yaml", "backbone: " + "[" * 900 + "]" * 900, "nests too deep"),
    "runs code": ("model/small.yaml", "backbone: !!python/object/apply:os.system [ls]\n", "not a config's YAML"),
    "a set": ("model/small.yaml", "backbone: !!set {a, b}\n", "not a config's YAML"),
    "unknown key": ("model/small.yaml", "backbonee: x\n", "did you mean model.backbone?"),
    "a target": ("model/small.yaml", "_target_: os.system\n", "model._target_"),
    "a number as key": ("model/small.yaml", "5: x\n", "model.5"),
    "another package": ("model/small.yaml", "# @package foo\nlr: 1\n", "foo.lr"),
    "an experiment without its header": ("experiment/mine.yaml", "seed: 5\n", "# @package _global_"),
    "text for a number": ("trainer/default.yaml", "max_epochs: many\n", "'many'"),
    "a fraction for a whole number": ("trainer/default.yaml", "max_epochs: 2.5\n", "2.5"),
    "true for a whole number": ("trainer/default.yaml", "max_epochs: true\n", "true"),
    "true for a number": ("model/small.yaml", "lr: true\n", "true"),
    "true for text": ("model/small.yaml", "backbone: true\n", "it must be text"),
    "3 for a switch": ("trainer/default.yaml", "deterministic: 3\n", "true or false"),
    "null for a number": ("trainer/default.yaml", "max_epochs:\n", "null"),
    "null for text": ("model/small.yaml", "backbone: null\n", "null"),
    "a list for text": ("model/small.yaml", "backbone: [a]\n", "['a']"),
    "bytes for text": ("model/small.yaml", "backbone: !!binary aGVsbG8=\n", "it must be text"),
    "nan": ("model/small.yaml", "lr: .nan\n", "a finite number"),
    "inf": ("model/small.yaml", "lr: .inf\n", "a finite number"),
    "a huge number": ("trainer/default.yaml", "max_epochs: " + "9" * 400 + "\n", "a whole number"),
    "a number too long to read": ("trainer/default.yaml", "max_epochs: " + "9" * 5000 + "\n", "4300 digits"),
    "out of range": ("trainer/default.yaml", "max_epochs: -1\n", "1 or more"),
    "not a choice": ("track/csv.yaml", "kind: mlflow\n", "csv, tensorboard or wandb"),
    "a number for a group": ("model/small.yaml", "# @package _global_\nmodel: 5\n", "a group of keys"),
    "null for a group": ("model/small.yaml", "# @package _global_\nmodel:\n", "a group of keys"),
    "no value yet": ("model/small.yaml", "backbone: ???\n", "has no value"),
    "a broken reference": ("model/small.yaml", 'backbone: "${oc"\n', "not a config's YAML"),
    "a reference to nothing": ("model/small.yaml", "lr: ${model.nope}\n", "model.nope"),
    "references in a circle": ("model/small.yaml", "lr: ${model.drop_rate}\ndrop_rate: ${model.lr}\n", "ecursive"),
    "a reference of the wrong type": ("model/small.yaml", "backbone: resnet10t\nlr: ${model.backbone}\n", "resnet10t"),
    "an unknown resolver": ("model/small.yaml", "backbone: ${foo:1}\n", "foo"),
    "an unknown task": ("task/digits.yaml", f"{TASK}digitz\n", "did you mean task=digits?"),
    "a task that is a path": ("task/digits.yaml", f"{TASK}../x\n", "no task is called"),
    "a task that is a list": ("task/digits.yaml", f"{TASK}[a]\n", "no task is called"),
    "a task without a name": ("task/digits.yaml", f"{TASK}\n", "no task is called"),
}  # fmt: skip


def refused(configs: Path, *words: str) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        composed(configs, *words)
    assert raised.value.exit_code == 2
    return raised.value


@pytest.mark.parametrize(("file", "content", "why"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_by_name(configs: Path, file: str, content: str | bytes, why: str) -> None:
    (configs / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    error = refused(configs, *(["experiment=mine"] if file.startswith("experiment") else []))
    assert why in str(error)
    assert str(configs / file) in str(error)
    assert "\n" not in str(error)


def test_a_bad_value_is_refused_also_where_a_later_layer_hides_it(configs: Path) -> None:
    (configs / "trainer" / "default.yaml").write_text("max_epochs: many\n", encoding="utf-8")
    assert "trainer/default.yaml" in str(refused(configs, "trainer.max_epochs=3"))


def change(find: str, put: str) -> Callable[[Path], None]:
    def apply(configs: Path) -> None:
        path = configs / "config.yaml"
        text = path.read_text(encoding="utf-8")
        assert find in text
        path.write_text(text.replace(find, put), encoding="utf-8")

    return apply


def put(name: str, text: str) -> Callable[[Path], None]:
    return lambda configs: (configs / name).write_text(text, encoding="utf-8") and None


def folder_in_place(name: str) -> Callable[[Path], None]:
    def apply(configs: Path) -> None:
        (configs / name).unlink()
        (configs / name).mkdir()

    return apply


BAD_FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a choice that is not there": (change("track: csv", "track: csvv"), "track/csvv"),
    "a group that is not there": (change("track: csv", "trak: csv"), "trak/csv"),
    "defaults that are a number": (put("config.yaml", "defaults: 3\n"), "must be a list"),
    "defaults that hold a number": (put("config.yaml", "defaults: [3]\n"), "int"),
    "no defaults": (put("config.yaml", "seed: 1\n"), "names no task"),
    "an unknown key": (change("defaults:", "sed: 3\ndefaults:"), "did you mean seed?"),
    "empty": (put("config.yaml", ""), "config.yaml sets nothing"),
    "a list": (put("config.yaml", "- a\n"), "config.yaml holds a list"),
    "missing": (lambda c: (c / "config.yaml").unlink(), "has no config.yaml"),
    "a folder in its place": (folder_in_place("config.yaml"), "has no config.yaml"),
    "a folder in a group file's place": (folder_in_place("model/small.yaml"), "model/small"),
    "a file that names itself": (
        put("task/digits.yaml", f"{HEADER}defaults:\n  - /task: digits\ntask:\n  name: digits\n"), "names itself"),
    "a task that is a word": (put("task/digits.yaml", f"{HEADER}task: digits\n"), "names no task"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "why"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_bad_configs_folder_is_refused(configs: Path, harm: Callable[[Path], None], why: str) -> None:
    harm(configs)
    error = refused(configs)
    assert why in str(error)
    assert str(configs) in str(error) or "defaults" in str(error)


def test_the_command_line_says_it_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path / "p")
    (project / "configs" / "model" / "small.yaml").write_text("lr: }", encoding="utf-8")
    monkeypatch.chdir(project)
    before = contents(project)
    said = call(capsys, "train", "--json", "model=small")
    assert (said.code, said.out) == (2, "")
    assert "model/small.yaml" in said.err
    assert "Traceback" not in said.err
    assert contents(project) == before


# What is wrong on the command line


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("modle.lr=1", "did you mean model.lr?"),
        ("lr=1", "did you mean model.lr?"),
        ("modle=small", "did you mean model=?"),
        ("tsak=digits", "did you mean task=?"),
        ("model=smal", "did you mean model=small?"),
        ("task=digitz", "did you mean task=digits?"),
        ("task=../x", "no task is called"),
        ("task=", "no task is called"),
        ("task=null", "no task is called"),
        ("~task", "cannot be left out"),
        ("experiment=none", "there are none"),
        ("task.name=trashnet", "choose one: task=NAME"),
        ("data=sample", "data is a group of keys"),
        ("hydra.run.dir=x", "no config key is called"),
        ("model.lr.x=1", "did you mean model.lr?"),
        ("model.lr=abc", "it must be a finite number"),
        ("model.lr=", "it must be a finite number"),
        ("model.lr=null", "null"),
        ("model.lr=nan", "nan"),
        ("model.lr=1e400", "inf"),
        ("model.lr=0", "over 0"),
        ("model.lr=???", "has no value"),
        ("model.lr=[1,2]", "[1, 2]"),
        ("model.lr=1,2", "names several values"),
        ("model.lr=range(1,5)", "names several values"),
        ("model.lr=${nope}", "nope"),
        ("seed=1.5", "a whole number"),
        ("seed=true", "a whole number"),
        ("seed=-1", "from 0 to 4294967295"),
        ("seed=" + "9" * 30, "a whole number"),
        ("trainer.deterministic=2", "true or false"),
        ("trainer.folds=1", "0, or from 2 to 100"),
        ("data.sha256=" + "g" * 64, "64 hexadecimal digits"),
        ("data.val_share=0.9", "under 1 with data.test_share"),
        ("~model.lr=7", "not 7"),
        ("data.source=https://a.b/c?x=1", "quote the value: 'data.source=\"https://a.b/c?x=1\"'"),
        ("data.source=it's", "quote the value"),
        ("data.source=é", "quote the value"),
        ("model..lr=1", "not an override"),
        (" model.lr=1", "not an override"),
        ("=1", "no config key"),
        ("model", "overrides have the form key=value"),
        ("~", "overrides have the form key=value"),
    ],
)
def test_a_bad_override_is_refused(configs: Path, word: str, why: str) -> None:
    error = refused(configs, word)
    assert why in str(error)
    assert error.next or error.found


def test_an_option_is_no_override(configs: Path) -> None:
    with pytest.raises(UsageError, match="no such option: --lr=3"):
        composed(configs, "--lr=3")


def test_a_value_that_cannot_be_resolved_can_be_taken_out(configs: Path) -> None:
    (configs / "model" / "small.yaml").write_text("lr: ${nope}\n", encoding="utf-8")
    assert "nope" in str(refused(configs))
    assert composed(configs, "~model.lr").config.model.lr == config.Model().lr


def test_taking_out_another_value_than_the_default_says_what_the_default_is(configs: Path) -> None:
    error = refused(configs, "~trainer.folds=5")
    assert "trainer.folds is 0, its default, not 5" in str(error)
    assert composed(configs, "~trainer.folds=0").config.trainer.folds == 0
    assert composed(configs, "~trainer.folds").config.trainer.folds == 0


def test_the_advice_to_quote_works(configs: Path) -> None:
    advice = refused(configs, "data.source=a=b").next
    word = advice.removeprefix("quote the value: ").strip("'")
    assert composed(configs, word).config.data.source == "a=b"


WORDS = st.one_of(
    st.text(max_size=30),
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["", "+", "++", "~"]),
        st.sampled_from([*config.keys(task.Options), "task", "model", "experiment", "recipe", "hydra.job.name"]),
        st.one_of(
            st.text(max_size=15),
            st.sampled_from(["null", "[]", "{}", "${seed}", "${", "'", "1e999", "nan", "[1,2]", "{a:1}", "small"]),
            st.integers().map(str),
            st.floats().map(str),
        ),
    ),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, max_size=3))
def test_any_words_give_a_config_or_a_clear_no(configs: Path, words: list[str]) -> None:
    try:
        c = composed(configs, *words)
    except UsageError:
        return
    yaml.safe_dump(config.to_dict(c.config))


# A run's own config


def saved(c: Composed, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.to_dict(c.config), sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "words", [[], ["task=trashnet", "task.block=3", "model.lr=1e-5"], ["model.weights='a: #b'"]], ids=str
)
def test_a_runs_config_is_read_back_equal(configs: Path, tmp_path: Path, words: list[str]) -> None:
    c = composed(configs, *words)
    path = saved(c, tmp_path / "run.yaml")
    back = compose.load(path, [], options_of)
    assert back.config == c.config
    assert set(back.origins.values()) == {str(path)}


def test_single_values_of_a_run_can_change(configs: Path, tmp_path: Path) -> None:
    path = saved(composed(configs, "seed=7"), tmp_path / "run.yaml")
    c = compose.load(path, ["data.source='a, b'", "+trainer.device=cpu", "~seed"], options_of)
    assert (c.config.data.source, c.config.trainer.device, c.config.seed) == ("a, b", "cpu", 0)
    assert (c.origins["data.source"], c.origins["seed"]) == ("command line", "default")


@pytest.mark.parametrize("word", ["task=trashnet", "model=small", "modle.lr=1", "model.lr=abc", "model.lr=-1", "x"])
def test_what_cannot_change_in_a_run(configs: Path, tmp_path: Path, word: str) -> None:
    path = saved(composed(configs), tmp_path / "run.yaml")
    with pytest.raises(ConfigError):
        compose.load(path, [word], options_of)


@pytest.mark.parametrize(
    "content",
    [None, "", "- a\n", "x", "task: digits\n", "task:\n  name: nope\n", "task:\n  name: digits\nnews: 1\n",
     "task:\n  name: digits\nseed: abc\n", "task: {name: digits}\nseed: -1\n", "a: [", b"\xff", "[" * 900],
    ids=lambda c: repr(c)[:20],
)  # fmt: skip
def test_a_broken_run_config_is_said(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ProjError) as raised:
        compose.load(path, [], options_of)
    assert type(raised.value) is ConfigError
    assert str(path) in str(raised.value)
