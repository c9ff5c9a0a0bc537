"""Output folders: atomic, resumed by the same settings, refused for other ones."""

from __future__ import annotations

import importlib.metadata
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from safety_ray.core.artifact import (
    Artifact,
    Fingerprint,
    begin,
    input_fingerprint,
    read_record,
)
from safety_ray.core.config import dump, setting
from safety_ray.core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """An engine."""

    kind: str = setting("which", default="template")
    concurrency: int = setting("replicas", default=1, identity=False)
    args: dict[str, Any] = setting("anything", factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a stage."""

    output: str = setting("folder to write", identity=False)
    write_rows: int = setting("rows in a write task", default=256, identity=False)
    rows: int = setting("rows", default=3)
    styles: list[str] = setting("styles", factory=lambda: ["talk"])
    engine: Engine = setting("engine", factory=Engine)


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return Settings(output=str(tmp_path / "deep" / "out"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "pages.jsonl"
    path.write_text('{"id": "a"}\n')
    return path


def start(config: Settings, **inputs: str) -> Artifact:
    return begin(config.output, config, inputs)


def finish(config: Settings, **inputs: str) -> dict[str, Any]:
    return start(config, **inputs).commit(rows_in=3, rows_out=2, rejected=1)


def mistake(config: Settings, **inputs: str) -> str:
    with pytest.raises(UserError) as caught:
        start(config, **inputs)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def on_disk(config: Settings, name: str) -> Any:
    return json.loads((Path(config.output) / name).read_text())


def test_artifact_begin_writes_config_but_no_record(config: Settings, source: Path) -> None:
    out = start(config, pages=str(source))
    assert (out.finished, out.resumed) == (False, False)
    assert sorted(os.listdir(config.output)) == ["config.json"]
    assert on_disk(config, "config.json")["config"] == dump(config)
    assert list(on_disk(config, "config.json")["inputs"]) == ["pages"]


def test_artifact_commit_writes_and_returns_record(config: Settings, source: Path) -> None:
    out = start(config, pages=str(source))
    record = out.commit(rows_in=3, rows_out=2, rejected=1, chunks=17)
    assert out.finished
    assert record == on_disk(config, "record.json") == read_record(config.output)
    assert (record["rows_in"], record["rows_out"], record["rejected"], record["chunks"]) == (3, 2, 1, 17)
    assert record["config"] == dump(config)
    assert record["inputs"] == {"pages": input_fingerprint(str(source))}
    assert record["seconds"] >= 0
    assert record["versions"]["ray"] == importlib.metadata.version("ray")
    assert not [name for name in os.listdir(config.output) if name.endswith(".part")]


def test_artifact_sub_joins_local_and_remote_paths(config: Settings) -> None:
    out = start(config)
    assert out.sub("data", "a.parquet") == f"{config.output}/data/a.parquet"
    assert replace(out, path="s3://b/c/").sub("data") == "s3://b/c/data"


def test_artifact_begin_returns_record_of_finished_folder(config: Settings, source: Path) -> None:
    record = finish(config, pages=str(source))
    again = start(config, pages=str(source))
    assert again.finished
    assert again.record == record


def test_artifact_removes_temporary_folders_once_finished(config: Settings) -> None:
    def start_stage() -> tuple[Artifact, Path, Path]:
        out = begin(config.output, config, {}, temporary=("drafts", "absent"))
        for name in ("drafts", "data"):
            Path(out.sub(name)).mkdir(exist_ok=True)
            Path(out.sub(name, "0.parquet")).touch()
        return out, Path(out.sub("drafts")), Path(out.sub("data"))

    start_stage()
    out, drafts, data = start_stage()
    assert drafts.exists(), "a resumed run needs it"
    out.commit(rows_in=0, rows_out=0)
    assert (drafts.exists(), data.exists()) == (False, True)
    start_stage()  # now as if the run had been killed between the record and the removal
    begin(config.output, config, {}, temporary=("drafts", "absent"))
    assert (drafts.exists(), data.exists()) == (False, True)


def test_artifact_begin_resumes_interrupted_run(config: Settings, source: Path) -> None:
    first = start(config, pages=str(source))
    Path(first.sub("rows")).mkdir()
    second = start(config, pages=str(source))
    assert (second.finished, second.resumed) == (False, True)
    assert Path(second.sub("rows")).is_dir()
    assert finish(config, pages=str(source)) == on_disk(config, "record.json")


def test_artifact_begin_resumes_with_other_non_identity_settings(config: Settings, source: Path) -> None:
    first = start(config, documents=str(source))
    other = replace(config, write_rows=7, engine=replace(config.engine, concurrency=9))
    resumed = start(other, documents=str(source))
    assert resumed.resumed
    assert mistake(replace(other, rows=4), documents=str(source)).startswith(f"'{first.path}' was made with")
    assert mistake(replace(other, engine=Engine(kind="vllm")), documents=str(source))
    # The fingerprint, by which later stages recognize this output, ignores them as well.
    record = resumed.commit(rows_in=1, rows_out=1)
    same = start(replace(config, output=config.output + "2"), documents=str(source)).commit(
        rows_in=1, rows_out=1
    )
    assert record["fingerprint"] == same["fingerprint"]


def test_artifact_begin_restarts_after_partial_config_write(config: Settings) -> None:
    Path(config.output).mkdir(parents=True)
    (Path(config.output) / "config.json.part").write_text('{"conf')
    assert not start(config).resumed
    assert on_disk(config, "config.json")["config"] == dump(config)


@pytest.mark.parametrize("finished", [False, True])
def test_artifact_begin_rejects_changed_settings(config: Settings, finished: bool) -> None:
    if finished:
        finish(config)
    else:
        start(config)
    before = {path: path.read_bytes() for path in Path(config.output).rglob("*")}
    other = replace(config, rows=4, engine=Engine(kind="vllm", args={"dtype": "half"}))
    text = mistake(other)
    assert config.output in text
    assert "rows (3 there, 4 now)" in text
    assert "engine.kind ('template' there, 'vllm' now)" in text
    assert "engine.args" in text
    assert "styles" not in text
    assert "choose another output or remove the folder" in text
    assert before == {path: path.read_bytes() for path in Path(config.output).rglob("*")}


def test_artifact_begin_accepts_default_of_setting_added_since(config: Settings) -> None:
    record = finish(config)
    written = on_disk(config, "config.json")
    for values in (written["config"], written["config"]["engine"]):
        values.pop("styles", None), values.pop("args", None)
    (Path(config.output) / "config.json").write_text(json.dumps(written))
    assert start(config).record == record
    assert "styles (['talk'] there, ['essay'] now)" in mistake(replace(config, styles=["essay"]))
    assert "engine.args.x ('absent' there, 1 now)" in mistake(replace(config, engine=Engine(args={"x": 1})))
    written["config"]["engine"]["removed"] = 2
    (Path(config.output) / "config.json").write_text(json.dumps(written))
    assert "engine.removed (2 there, 'absent' now)" in mistake(config)


def test_artifact_begin_truncates_list_of_changed_settings(tmp_path: Path) -> None:
    config = Settings(output=str(tmp_path / "o"), engine=Engine(args={str(n): n for n in range(9)}))
    start(config)
    assert "and 5 more" in mistake(replace(config, engine=Engine(args={str(n): n + 1 for n in range(9)})))


def test_artifact_begin_rejects_changed_list_order(config: Settings) -> None:
    start(replace(config, styles=["a", "b"]))
    assert "styles" in mistake(replace(config, styles=["b", "a"]))


def test_artifact_fingerprint_is_independent_of_output_path(config: Settings, tmp_path: Path) -> None:
    record = finish(config)
    Path(config.output).rename(tmp_path / "moved")
    moved = start(replace(config, output=str(tmp_path / "moved")))
    assert moved.finished
    elsewhere = finish(replace(config, output=str(tmp_path / "elsewhere")))
    assert elsewhere["fingerprint"] == record["fingerprint"]
    assert finish(Settings(output=str(tmp_path / "third"), rows=9))["fingerprint"] != record["fingerprint"]


def test_artifact_begin_rejects_changed_input(config: Settings, source: Path) -> None:
    finish(config, pages=str(source), other=str(source.parent / "pages.jsonl"))
    source.write_text('{"id": "a"}\n{"id": "b"}\n')
    assert "was made from other inputs: other, pages changed" in mistake(
        config, pages=str(source), other=str(source)
    )


def test_artifact_begin_rejects_missing_input_before_writing(config: Settings) -> None:
    assert "the input '/nowhere/pages' does not exist" in mistake(config, pages="/nowhere/pages")
    assert "the input '/nowhere/*.jsonl' does not exist" in mistake(config, pages="/nowhere/*.jsonl")
    assert not Path(config.output).exists()


def test_input_fingerprint_tracks_files_folders_and_globs(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    (folder / "a.jsonl").write_text("1")
    (folder / "b" / "c.jsonl").write_text("2")
    sources = [str(folder), str(folder / "a.jsonl"), str(folder / "*.jsonl"), str(folder / "**" / "*.jsonl")]
    marks = [input_fingerprint(one) for one in sources]
    assert marks == [input_fingerprint(one) for one in sources]
    (folder / "b" / "c.jsonl").write_text("22")
    after = [input_fingerprint(one) for one in sources]
    assert [one == two for one, two in zip(marks, after, strict=True)] == [False, True, True, False]
    (folder / "new.jsonl").write_text("3")
    assert input_fingerprint(sources[2]) != after[2]
    # Same size, other content: the time tells.
    os.utime(folder / "a.jsonl", ns=(1, 1))
    assert input_fingerprint(sources[1]) != after[1]


def test_input_fingerprint_of_stage_output_uses_its_record(config: Settings, tmp_path: Path) -> None:
    record = finish(config)
    assert input_fingerprint(config.output) == record["fingerprint"]
    for path in Path(config.output).rglob("*"):
        os.utime(path, ns=(1, 1))
    assert input_fingerprint(config.output) == record["fingerprint"], "a copied folder is the same input"
    after = Settings(output=str(tmp_path / "after"))
    assert start(after, documents=config.output).inputs == {"documents": record["fingerprint"]}


@pytest.mark.parametrize("inside", [None, "rows", "data"])
def test_artifact_begin_rejects_unfinished_input(
    config: Settings, tmp_path: Path, inside: str | None
) -> None:
    out = start(config)
    if inside:
        Path(out.sub(inside)).mkdir()
    text = mistake(Settings(output=str(tmp_path / "after")), documents=config.output)
    assert f"'{config.output}' is not finished; run the stage that writes it again first" in text


def test_read_record_returns_none_for_foreign_folder(tmp_path: Path) -> None:
    assert read_record(str(tmp_path)) is None
    assert read_record(str(tmp_path / "nothing")) is None
    # A model from elsewhere has a config.json, too, and may hold a folder of that name.
    (tmp_path / "data").mkdir()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read_record(str(tmp_path)) is None
    assert input_fingerprint(str(tmp_path))


@pytest.mark.parametrize("counts", [(3, 3, 1), (3, 1, 1), (0, 1, 0)])
def test_artifact_commit_raises_for_unbalanced_row_counts(
    config: Settings, counts: tuple[int, int, int]
) -> None:
    rows_in, rows_out, rejected = counts
    with pytest.raises(RuntimeError, match="rows were lost or duplicated") as caught:
        start(config).commit(rows_in=rows_in, rows_out=rows_out, rejected=rejected)
    assert config.output in str(caught.value)
    assert not start(config).finished


def test_artifact_commit_skips_row_balance_check_if_disabled(config: Settings) -> None:
    record = start(config).commit(rows_in=700, rows_out=31, balanced=False)
    assert (record["rows_in"], record["rows_out"]) == (700, 31)


@pytest.mark.parametrize("name", ["thesis.tex", "config.json", "record.json"])
def test_artifact_begin_rejects_folder_with_foreign_files(config: Settings, name: str) -> None:
    Path(config.output).mkdir(parents=True)
    (Path(config.output) / name).write_text('{"model_type": "llama"}')
    text = mistake(config)
    assert f"'{config.output}' has files that no stage wrote; choose an empty one" in text
    assert os.listdir(config.output) == [name]


def test_artifact_begin_accepts_empty_folder(config: Settings) -> None:
    Path(config.output).mkdir(parents=True)
    assert not start(config).finished


def test_artifact_begin_rejects_output_that_is_a_file(config: Settings) -> None:
    Path(config.output).parent.mkdir()
    Path(config.output).write_text("x")
    assert "has files that no stage wrote" in mistake(config)


def test_artifact_begin_rejects_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    text = mistake(Settings(output=str(tmp_path / "file" / "out")))
    assert f"the output folder '{tmp_path}/file/out' cannot be written" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_artifact_begin_rejects_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written" in mistake(Settings(output=str(tmp_path / "locked" / "out")))


def test_artifact_begin_rejects_output_under_proc(tmp_path: Path) -> None:
    assert "the output folder '/proc/out' cannot be written" in mistake(Settings(output="/proc/out"))


def test_artifact_begin_makes_relative_path_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = start(Settings(output="here/out/"))
    assert out.path == str(tmp_path / "here" / "out")


def test_artifact_supports_fsspec_memory_filesystem() -> None:
    fs = fsspec.filesystem("memory")
    config = Settings(output="memory://bucket/out")
    try:
        out = start(config)
        assert out.path == "memory://bucket/out"
        record = out.commit(rows_in=1, rows_out=1)
        assert json.loads(fs.cat_file("/bucket/out/record.json")) == record
        assert start(config).finished
        assert "rows (3 there, 4 now)" in mistake(replace(config, rows=4))
        assert input_fingerprint(config.output) == record["fingerprint"]
        assert not [name for name in fs.ls("/bucket/out", detail=False) if name.endswith(".part")]
    finally:
        fs.rm("/bucket", recursive=True)


def test_artifact_begin_records_fingerprint_of_contents(config: Settings) -> None:
    one, other = (Fingerprint.of_files({"a": text}) for text in (b"one", b"two"))
    assert one == Fingerprint.of_files({"a": b"one"}) != other
    assert finish(config, classifier=one)["inputs"] == {"classifier": one}
    assert start(config, classifier=one).finished
    assert "classifier changed" in mistake(config, classifier=other)


@pytest.mark.parametrize("path", ["memory://runs/*", "memory://runs/a?", "s3://bucket/run[1]"])
def test_artifact_begin_rejects_url_with_pattern(path: str) -> None:
    """fsspec would take it for a pattern, and remove or move what matches."""
    with pytest.raises(UserError, match=r"leave out \*, \? and \[ \]"):
        begin(path, Settings(output=path), inputs={})
