"""Settings from yaml files and arguments; every mistake is one line that names the key."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_ray.core.config import describe, dump, fingerprint, from_dict, load, setting
from safety_ray.core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """An engine."""

    kind: Literal["template", "vllm"] = setting("which engine", default="template")
    args: dict[str, Any] = setting("anything the engine takes", factory=dict)
    model: str = setting("which model", default="")
    top_p: float = setting("nucleus", default=0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of
    a stage."""

    output: str = setting("folder to write")
    rows: int = setting("rows at most", default=10)
    share: float = setting("part of the rows", default=0.5)
    strict: bool = setting("whether to fail", default=False)
    styles: list[str] = setting("styles to sample from", factory=lambda: ["talk", "story"])
    limit: int | None = setting("a limit, or none", default=None)
    engine: Engine = setting("the engine", factory=Engine)
    fields: dict[str, str] = setting("names", factory=dict)
    choice: Literal["on", "off"] = setting("one of two", default="on")
    name: str | None = setting("a name, or none", default=None)
    later: dict[str, Any] = setting("an engine's settings", factory=dict, of=Engine)
    engines: dict[str, Any] = setting("engines by name", factory=dict, of=dict[str, Engine])

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UserError(f"rows={self.rows} must be at least 1.")


def message(argv: list[str], cls: type = Settings) -> str:
    """Return the error message for `argv`; it must be one line."""
    with pytest.raises(UserError) as caught:
        load(cls, argv)
    text = str(caught.value)
    assert len(text.splitlines()) == 1, text
    return text


def file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return str(path)


def test_config_load_merges_defaults_yaml_and_arguments(tmp_path: Path) -> None:
    path = file(tmp_path, "output: there\nrows: 20\nshare: 0.25\nengine:\n  top_p: 0.5\n")
    config = load(Settings, [path, "rows=30", "engine.kind=vllm", "rows=40"])
    assert config == Settings(output="there", rows=40, share=0.25, engine=Engine(kind="vllm", top_p=0.5))


def test_config_load_accepts_arguments_without_yaml() -> None:
    assert load(Settings, ["output=here"]) == Settings(output="here")


def test_config_load_returns_frozen_dataclass() -> None:
    config = load(Settings, ["output=here"])
    assert type(config) is Settings
    assert type(config.engine) is Engine
    assert type(config.styles) is list
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rows = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("rows=7", "rows", 7),
        ("share=1e-3", "share", 0.001),
        ("share=1", "share", 1.0),
        ("strict=true", "strict", True),
        ("styles=[a, b]", "styles", ["a", "b"]),
        ("styles=[]", "styles", []),
        ("limit=3", "limit", 3),
        ("limit=null", "limit", None),
        ("output=s3://bucket/a?b=c", "output", "s3://bucket/a?b=c"),
        ("output=2026", "output", "2026"),
        ("name=", "name", ""),
        ("output=täglich 日本", "output", "täglich 日本"),
    ],
)
def test_config_load_parses_argument_values(word: str, key: str, value: Any) -> None:
    words = ["output=here", word]
    assert getattr(load(Settings, words), key) == value


TEXTS = ["off", "no", "true", "007", "1e3", "0x1F", "1_000", "12:30:00", "2026-01-02", ".inf", "-1", "~x"]


@pytest.mark.parametrize(
    "text",
    [*TEXTS, "null", "Is it 5? # yes", "Note: x", "[a", "{a", "'a", "- b", "*a", "&a b", " a ", "a\nb", "%"],
)
def test_config_load_keeps_text_of_arguments(text: str) -> None:
    config = load(
        Settings, [f"output={text}", f"engine.model={text}", f"fields.a={text}", f"later.model={text}"]
    )
    assert (config.output, config.engine.model, config.fields) == (text, text, {"a": text})
    assert config.later == {"model": text}
    assert load(Settings, ["output=x", f"engines.e.model={text}"]).engines == {"e": {"model": text}}


@pytest.mark.parametrize("text", TEXTS)
def test_config_load_keeps_text_inside_arguments(text: str) -> None:
    config = load(
        Settings,
        [
            "output=x",
            f"styles=[{text}, b]",
            f"engine={{model: {text}, top_p: 1e-1}}",
            f"fields={{{text}: {text}}}",
        ],
    )
    assert (config.styles, config.fields) == ([text, "b"], {text: text})
    assert config.engine == Engine(model=text, top_p=0.1)
    assert load(Settings, ["output=x", "styles=[a]", f"styles=[{text}]"]).styles == [text]


@pytest.mark.parametrize("text", TEXTS)
def test_config_load_keeps_text_of_yaml(tmp_path: Path, text: str) -> None:
    path = file(
        tmp_path,
        f"output: {text} # a comment\nrows: 0x10\nshare: 1e-3\nstrict: on\nlimit: null\nname: {text}\n"
        f"styles:\n- {text}\n- '{text}'\nfields: {{{text}: {text}}}\n"
        f"engine: {{model: {text}, args: {{a: 007, b: off, 3: 1e3}}}}\n"
        f"later: &later\n  model: {text}\n  args: {{a: 1}}\nengines:\n  one:\n    <<: *later\n    top_p: 1\n",
    )
    config = load(Settings, [path])
    assert (config.rows, config.share, config.strict, config.limit) == (16, 0.001, True, None)
    assert (config.output, config.name, config.styles) == (text, text, [text, text])
    assert config.fields == {text: text}
    assert config.engine == Engine(model=text, args={"a": 7, "b": False, "3": 1000.0})
    assert config.later == {"model": text, "args": {"a": 1}}
    assert config.engines == {"one": {"model": text, "args": {"a": 1}, "top_p": 1}}


def test_config_load_keeps_choices_and_null(tmp_path: Path) -> None:
    assert load(Settings, ["output=x", "choice=off"]).choice == "off"
    assert load(Settings, [file(tmp_path, "output: x\nchoice: off\nname: null\n")]).choice == "off"
    assert load(Settings, ["output=x", "name=a", "name=null"]).name is None


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"output": False}, "output=False"),
        ({"output": 7}, "output=7"),
        ({"output": "x", "styles": ["a", 1.5]}, "styles[1]=1.5"),
        ({"output": "x", "engine": {"model": 7}}, "engine.model=7"),
        ({"output": "x", "later": {"model": True}}, "later.model=True"),
        ({"output": "x", "fields": {"a": 1}}, "fields.a=1"),
    ],
)
def test_from_dict_rejects_numbers_for_text(values: dict[str, Any], part: str) -> None:
    """Another program has read these values from YAML, and their text is lost."""
    with pytest.raises(UserError) as caught:
        from_dict(Settings, values, "the args")
    assert str(caught.value) == f"the args: {part} must be text: write the value in quotes."


def test_config_load_suggests_nearest_key_for_unknown_key() -> None:
    assert "unknown setting 'row'; the nearest is 'rows'" in message(["output=x", "row=3"])
    assert "sk-secret" not in message(["output=x", "api_key=sk-secret"]), "it comes into logs"
    assert "'engine.knd'; the nearest is 'engine.kind'" in message(["output=x", "engine.knd=vllm"])


def test_config_load_reports_file_of_unknown_yaml_key(tmp_path: Path) -> None:
    path = file(tmp_path, "output: x\nouptut: y\n")
    text = message([path])
    assert path in text
    assert "'ouptut'; the nearest is 'output'" in text


@pytest.mark.parametrize("word", ["rows=many", "rows=1.5", "share=half", "strict=perhaps", "styles=talk"])
def test_config_load_reports_key_and_value_of_wrong_type(word: str) -> None:
    key, value = word.split("=")
    text = message(["output=x", word])
    assert key in text
    assert value in text


def test_config_load_reports_full_nested_key_of_wrong_type() -> None:
    text = message(["output=x", "engine.top_p=much"])
    assert "engine.top_p" in text
    assert "much" in text


def test_config_load_reports_file_and_key_of_wrong_yaml_type(tmp_path: Path) -> None:
    path = file(tmp_path, "output: x\nrows: many\n")
    text = message([path])
    assert path in text
    assert "rows" in text


def test_config_load_reports_allowed_choices() -> None:
    text = message(["output=x", "engine.kind=gpt"])
    assert "engine.kind" in text
    assert "gpt" in text
    assert "template" in text
    assert "vllm" in text


def test_config_load_reports_missing_required_setting() -> None:
    text = message(["rows=3"])
    assert text == "Settings needs a value for output: give it as output=..."


@pytest.mark.parametrize("word", ["output=", "output=${oc.env:SAFETY_RAY_NOT_SET,}"])
def test_config_load_rejects_required_text_that_is_empty(word: str) -> None:
    """As in `input=$FILES` with a variable that is not set."""
    assert message([word]) == "output is empty; give it a value, as in output=..."


def test_config_load_reports_all_missing_settings() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Two:
        first: str = setting("one")
        second: int = setting("two")

    assert "first, second" in message([], Two)


def test_config_load_passes_through_post_init_error() -> None:
    assert message(["output=x", "rows=0"]) == "rows=0 must be at least 1."


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["nowhere.yaml"], "the config file 'nowhere.yaml' does not exist"),
        (["output=x", "rows"], "'rows' is not a setting: write key=value"),
        (["output=x", "--rows=3"], "--rows"),
        (["output=x", "styles=[a"], "styles"),
        (["=3", "output=x"], "'=3'"),
        (["engine=vllm", "output=x"], "engine"),
        (["output.part=x"], "output"),
        (["output=x", "styles={a: b}"], "styles"),
        (["output=x", "engine.args.a.b=1", "engine.args.a=[1]"], "engine"),
        (["output=${nowhere}"], "nowhere"),
        (["output=x", "rows=null"], "rows"),
        (["output=x", "rows="], "rows"),
        (["output=x", "share=nan"], "share=nan must be a finite number"),
        (["output=x", "engine.top_p=.inf"], "engine.top_p=inf must be a finite number"),
        (["output=x", "later={top_p: [1, .nan]}"], "later.top_p.1=nan must be a finite number"),
    ],
)
def test_config_load_rejects_malformed_arguments(argv: list[str], part: str) -> None:
    assert part in message(argv)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just a word\n", "a: [1\n", "a: b: c\n", "3\n", "\x00"])
def test_config_load_rejects_yaml_that_is_not_a_mapping(tmp_path: Path, text: str) -> None:
    path = file(tmp_path, text)
    assert path in message([path, "output=x"])


def test_config_load_reports_line_of_duplicate_yaml_key(tmp_path: Path) -> None:
    path = file(tmp_path, "rows: 3\noutput: x\noutput: y\n")
    text = message([path])
    assert "duplicate key" in text
    assert "line 3" in text


def test_config_load_rejects_yaml_mapping_for_list_setting(tmp_path: Path) -> None:
    path = file(tmp_path, "output: x\nrows: 3\nstyles: {a: b}\n")
    text = message([path])
    assert path in text
    assert "styles" in text


def test_config_load_keeps_defaults_for_empty_yaml(tmp_path: Path) -> None:
    assert load(Settings, [file(tmp_path, "# nothing\n"), "output=x"]) == Settings(output="x")


def test_config_load_rejects_folder_as_config_file(tmp_path: Path) -> None:
    assert str(tmp_path) in message([str(tmp_path)])


def test_config_load_accepts_any_value_in_dict_settings(tmp_path: Path) -> None:
    path = file(tmp_path, "output: x\nengine:\n  args:\n    max_model_len: 128\n    a: {b: [1, {c: null}]}\n")
    config = load(Settings, [path, "engine.args.dtype=bfloat16", "engine.args.a.d=2"])
    assert config.engine.args == {
        "max_model_len": 128,
        "a": {"b": [1, {"c": None}], "d": 2},
        "dtype": "bfloat16",
    }
    assert json.dumps(dump(config))


def test_config_load_replaces_lists_instead_of_appending(tmp_path: Path) -> None:
    path = file(tmp_path, "output: x\nstyles: [poem, letter, song]\n")
    assert load(Settings, [path]).styles == ["poem", "letter", "song"]
    assert load(Settings, [path, "styles=[one]"]).styles == ["one"]


def test_config_load_returns_independent_mutable_defaults() -> None:
    one, two = load(Settings, ["output=x"]), load(Settings, ["output=x"])
    one.styles.append("more")
    one.engine.args["a"] = 1
    assert two == Settings(output="x")


def test_config_help_lists_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as ended:
            load(Settings, ["output=x", flag])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert shown.rstrip("\n") == describe(Settings)
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[0] == "Settings of a stage."
    for head, meaning in [
        ("output: str  (required)", "folder to write"),
        ("rows: int = 10", "rows at most"),
        ("strict: bool = false", "whether to fail"),
        ("styles: list[str] = [talk, story]", "styles to sample from"),
        ("limit: int | none = null", "a limit, or none"),
        ("engine.kind: template | vllm = template", "which engine"),
        ("engine.args: dict[str, Any] = {}", "anything the engine takes"),
    ]:
        assert lines[lines.index(head) + 1] == meaning


def test_from_dict_validates_like_config_load() -> None:
    assert from_dict(Settings, {"output": "x", "engine": {"kind": "vllm"}}).engine.kind == "vllm"
    with pytest.raises(UserError, match=r"the section 'score': unknown setting 'row'; the nearest is 'rows'"):
        from_dict(Settings, {"output": "x", "row": 1}, where="the section 'score'")
    with pytest.raises(UserError, match="output"):
        from_dict(Settings, {})


def is_no_number(word: str) -> bool:
    """PyYAML writes the string 1e100 without quotes (YAML 1.1); OmegaConf parses it as a number in `args`."""
    try:
        float(word)
    except ValueError:
        return True
    return False


words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="$"), max_size=20
)


@settings(max_examples=12, deadline=None)
@given(
    output=words.filter(bool),
    rows=st.integers(1, 10**12),
    share=st.floats(allow_nan=False, allow_infinity=False),
    styles=st.lists(words, max_size=4),
    limit=st.none() | st.integers(),
    args=st.dictionaries(
        words.filter(is_no_number),
        st.none() | st.booleans() | st.integers() | words.filter(is_no_number),
        max_size=3,
    ),
)
def test_config_dump_round_trip(tmp_path_factory: pytest.TempPathFactory, **values: Any) -> None:
    args = values.pop("args")
    config = Settings(**values, engine=Engine(args=args))
    assert from_dict(Settings, dump(config)) == config
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(yaml.safe_dump(dump(config)))
    assert load(Settings, [str(path)]) == config


def test_config_fingerprint_depends_on_values_not_key_order() -> None:
    one = fingerprint({"a": 1, "b": {"c": [1, 2], "d": "ü"}})
    assert one == fingerprint({"b": {"d": "ü", "c": [1, 2]}, "a": 1})
    assert len(one) == 16
    assert len({one, fingerprint({"a": 2, "b": {"c": [1, 2], "d": "ü"}}), fingerprint({"a": 1})}) == 3
