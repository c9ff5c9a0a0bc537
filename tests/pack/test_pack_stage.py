"""The pack job on Ray: every token is traced, rows do not depend on blocks, and runs are resumed."""

from __future__ import annotations

import filecmp
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import write_rewritten, write_scored
from transformers import AutoTokenizer

from jobs.audit import AuditConfig, audit_scores
from jobs.pack import PackConfig, pack_documents
from safety_ray.core import config as settings
from safety_ray.core import dataset
from safety_ray.core.errors import UserError
from safety_ray.core.records import TOKEN_ROW, schema, stable_hash
from safety_ray.core.tag import TAG
from safety_ray.pack import inputs

pytestmark = pytest.mark.usefixtures("ray_cluster")
LENGTH = 64


def make(root: Path, **more: Any) -> PackConfig:
    base = {
        "vocab_size": 500,
        "row_length": LENGTH,
        "tag_rate": 0.3,
        "shards": 3,
        "seed": 7,
        "heldout_max": 10,
    }
    return PackConfig(**{"output": str(root / "out"), "scored": str(root / "scored"), **base, **more})


@pytest.fixture(scope="module")
def packed(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """120 documents with a `split`, rewritten documents, and their token rows."""
    root = tmp_path_factory.mktemp("packed")
    scored = write_scored(root / "scored", 120, split=True)
    rewritten = write_rewritten(root / "rewritten", scored)
    config = make(root, rewritten=str(root / "rewritten"), raw_scores=[0, 1, 4, 5])
    record = pack_documents(config)
    return {"root": root, "scored": scored, "rewritten": rewritten, "config": config, "record": record}


def token_rows(output: str) -> list[dict[str, Any]]:
    files = dataset.files(output)
    table = pa.concat_tables([pq.read_table(f) for f in files])
    assert table.schema == schema(TOKEN_ROW)
    return table.to_pylist()


def documents_of(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the tokens of each document, joined from its spans."""
    tokens: dict[str, list[int]] = {}
    for row in rows:
        for span in row["spans"]:
            ids = row["input_ids"][span["start"] : span["start"] + span["length"]]
            tokens.setdefault(span["id"], []).extend(ids)
    return tokens


def test_pack_stage_spans_reproduce_selected_documents(packed: dict[str, Any]) -> None:
    output, record = packed["config"].output, packed["record"]
    assert [Path(f).name for f in dataset.files(output)] == [f"shard-{n:05}.parquet" for n in range(3)]
    rows = token_rows(output)
    assert [r["row"] for r in rows] == list(range(record["rows_out"]))
    assert all(len(r["input_ids"]) == LENGTH for r in rows)
    tokenizer = AutoTokenizer.from_pretrained(f"{output}/tokenizer")
    assert len(tokenizer) == record["vocab_size"] <= 500

    roots = {r["id"]: r["id"] for r in packed["scored"]}
    for row in packed["rewritten"]:  # sources precede the documents made from them
        roots[row["id"]] = roots[row["source_id"]]
    out = {r["id"] for r in packed["scored"] if r["split"] == "heldout"}
    wanted = {
        r["id"]: r
        for r in [*packed["scored"], *packed["rewritten"]]
        if roots[r["id"]] not in out and ("recipe" in r or r["score"] in (0, 1, 4, 5))
    }
    documents = documents_of(rows)
    assert documents.keys() == wanted.keys()
    assert any("moralize" in name for name in documents)
    tags = 0
    for name, ids in documents.items():
        unsafe = "recipe" not in wanted[name] and wanted[name]["score"] >= 3
        plain = [i for i in ids if i != record["tag_id"]]
        assert plain[-1] == tokenizer.eos_token_id == record["end_of_text_id"]
        assert tokenizer.decode(plain[:-1], skip_special_tokens=False) == wanted[name]["text"]
        assert unsafe or len(plain) == len(ids)
        tags += len(ids) - len(plain)
    for span in (s for r in rows for s in r["spans"]):
        row = wanted[span["id"]]
        assert span["source_id"] == roots[span["id"]]
        assert span["recipe"] == row.get("recipe", "raw")
        assert span["unsafe"] == (span["recipe"] == "raw" and row["score"] >= 3)
    assert 0 < tags == record["tags"]


def test_pack_stage_spans_cover_all_tokens_except_padding(packed: dict[str, Any]) -> None:
    rows, record = token_rows(packed["config"].output), packed["record"]
    padding = 0
    for row in rows:
        position = 0
        for span in row["spans"]:
            assert span["start"] == position
            position += span["length"]
        assert set(row["input_ids"][position:]) <= {record["end_of_text_id"]}
        padding += LENGTH - position
    assert padding == record["padding"] < 3 * LENGTH
    assert record["tokens"] + padding == LENGTH * len(rows)


def test_pack_stage_orders_documents_by_hash(packed: dict[str, Any]) -> None:
    places = []
    for number, name in enumerate(dataset.files(packed["config"].output)):
        ids = list(documents_of(pq.read_table(name).to_pylist()))
        order = [stable_hash(7, "order", i) for i in ids]
        assert order == sorted(order)
        assert {h * 3 >> 64 for h in order} == {number}
        places += ids
    assert len(places) == packed["record"]["documents"]


def test_pack_stage_record_counts_every_document(packed: dict[str, Any]) -> None:
    record = packed["record"]
    assert record["rows_in"] == len(packed["scored"]) + len(packed["rewritten"])
    uses = record["documents"] + record["heldout"] + record["unselected"] + record["rejected"]
    assert record["rows_in"] == uses
    assert record["duplicates"] == 0
    assert record["unselected"] == sum(
        r["score"] in (2, 3) and r["split"] != "heldout" for r in packed["scored"]
    )
    assert sum(record["tokens_by_recipe"].values()) == record["tokens"]
    assert set(record["tokens_by_recipe"]) == {"raw", "rephrase", "refuse", "moralize"}
    assert (record["row_length"], record["tag"]) == (LENGTH, TAG)
    assert sorted(p.name for p in Path(packed["config"].output).iterdir()) == [
        "config.json", "data", "groups.parquet", "heldout", "record.json", "rejected", "tokenizer"
    ]  # fmt: skip


def test_pack_stage_preserves_columns_of_heldout_documents(packed: dict[str, Any]) -> None:
    held = pq.read_table(f"{packed['config'].output}/heldout/heldout.parquet").to_pylist()
    wanted = [r for r in packed["scored"] if r["split"] == "heldout"]
    assert len(wanted) > 10, "more than heldout_max"
    written = sorted(wanted, key=lambda r: stable_hash(7, "heldout", r["id"]))[:10]
    assert held == sorted(written, key=lambda r: r["id"])
    assert packed["record"]["heldout"] > len(wanted), "rewritten texts of all of them are held out as well"


def test_pack_stage_output_is_independent_of_input_files(packed: dict[str, Any], tmp_path: Path) -> None:
    scored = write_scored(tmp_path / "scored", 120, split=True, files=4)
    write_rewritten(tmp_path / "rewritten", scored, files=3)
    again = make(tmp_path, rewritten=str(tmp_path / "rewritten"), raw_scores=[0, 1, 4, 5])
    pack_documents(again)
    for name in ("data/shard-00000.parquet", "data/shard-00001.parquet", "data/shard-00002.parquet",
                 "heldout/heldout.parquet"):  # fmt: skip
        one, two = (pq.read_table(f"{o}/{name}") for o in (packed["config"].output, again.output))
        assert one.equals(two), name
    same = [Path(o, "tokenizer/tokenizer.json") for o in (packed["config"].output, again.output)]
    assert filecmp.cmp(*same, shallow=False)


def test_pack_stage_skips_finished_and_resumes_partial_output(packed: dict[str, Any], tmp_path: Path) -> None:
    assert pack_documents(packed["config"]) == packed["record"]
    # The state of a run that was killed while it wrote the second shard.
    broken = make(
        packed["root"],
        rewritten=packed["config"].rewritten,
        raw_scores=[0, 1, 4, 5],
        output=str(tmp_path / "out"),
    )
    shutil.copytree(packed["config"].output, broken.output)
    for name in ("record.json", "data/shard-00001.parquet"):
        Path(broken.output, name).unlink()
    kept = [Path(broken.output, n) for n in ("data/shard-00000.parquet", "tokenizer/tokenizer.json")]
    times = [p.stat().st_mtime_ns for p in kept]
    record = pack_documents(broken)
    assert [p.stat().st_mtime_ns for p in kept] == times
    assert record["tokens"] == packed["record"]["tokens"]
    assert token_rows(broken.output) == token_rows(packed["config"].output)
    with pytest.raises(UserError, match="tag_rate"):
        pack_documents(settings.from_dict(PackConfig, settings.dump(broken) | {"tag_rate": 0.9}))


def test_pack_stage_holds_out_by_hash_with_existing_tokenizer(packed: dict[str, Any], tmp_path: Path) -> None:
    scored = write_scored(tmp_path / "scored", 40, split=False, seed=3)
    rows = [{**r, "score": None} if n == 0 else r for n, r in enumerate(scored)]
    table = pa.Table.from_pylist(rows).append_column("split", pa.nulls(len(rows), pa.string()))
    dataset.write_table(table, str(tmp_path / "scored" / "part-0.parquet"))  # as ingest writes it
    old = f"{packed['config'].output}/tokenizer"
    config = make(
        tmp_path, tokenizer=old, tag="<|bad|>", heldout_share=0.3, max_rejected=0.1, tag_rate=1.0, shards=50
    )
    record = pack_documents(config)
    new = AutoTokenizer.from_pretrained(f"{config.output}/tokenizer")
    assert len(new) == packed["record"]["vocab_size"] + 1 == record["vocab_size"]
    # heldout_share=0.3 of 40 documents would be more than heldout_max=10.
    out = {r["id"] for r in rows if stable_hash(7, "heldout", r["id"]) < 10 / 40 * 2**64}
    held = pq.read_table(f"{config.output}/heldout/heldout.parquet")
    assert set(held.column("id").to_pylist()) == out
    assert len(out) == record["heldout"] > 0
    rejected = {"web-0"} - out
    assert record["rejected"] == len(rejected)
    documents = documents_of(token_rows(config.output))
    assert documents.keys() == {r["id"] for r in rows} - out - rejected
    words = sum(
        len(r["text"].split()) - 1
        for r in rows
        if r["id"] in documents and r["score"] is not None and r["score"] >= 3
    )
    assert record["tags"] == words


def test_pack_stage_uses_one_of_equal_documents(packed: dict[str, Any], tmp_path: Path) -> None:
    originals = write_scored(tmp_path / "scored", 40, split=False, seed=5)
    copies = [{**row, "id": f"{row['id']}-{n}"} for n in range(2) for row in originals[:30]]
    rows = [*originals, *copies]
    for number in range(3):
        table = pa.Table.from_pylist(rows[number::3])
        dataset.write_table(table, str(tmp_path / "scored" / f"part-{number}.parquet"))
    write_rewritten(tmp_path / "rewritten", rows)
    config = make(
        tmp_path, rewritten=str(tmp_path / "rewritten"), heldout_share=0.4, heldout_max=1000,
        tokenizer=f"{packed['config'].output}/tokenizer",
    )  # fmt: skip
    record = pack_documents(config)
    assert record["duplicates"] == 60
    held = pq.read_table(f"{config.output}/heldout/heldout.parquet").to_pylist()
    documents = documents_of(token_rows(config.output))
    trained = [row for row in rows if row["id"] in documents]
    assert sorted(row["text"] for row in [*held, *trained]) == sorted(row["text"] for row in originals)
    assert {row["id"] for row in held}.isdisjoint(documents)
    text_of = {row["id"]: row["text"] for row in rows}
    held_texts = {row["text"] for row in held}
    roots = {name.split("-re")[0].split("-moralize")[0] for name in documents if name not in text_of}
    assert roots == {i for i in roots if text_of[i] not in held_texts}
    assert len(roots) > len({text_of[i] for i in roots})  # what was made from copies is trained on
    uses = record["documents"] + record["heldout"] + record["unselected"] + record["duplicates"]
    assert record["rows_in"] == uses + record["rejected"]

    first = {text: min((i for i in text_of if text_of[i] == text), key=rank) for text in text_of.values()}
    assert {row["id"] for row in [*held, *trained]} == set(first.values())


def rank(document: str) -> bytes:
    return hashlib.blake2b(document.encode(), digest_size=16).digest()


def test_pack_stage_raises_user_error_for_empty_selection(packed: dict[str, Any], tmp_path: Path) -> None:
    old = f"{packed['config'].output}/tokenizer"
    config = make(
        packed["root"],
        output=str(tmp_path / "out"),
        rewritten=str(tmp_path / "rewritten"),
        tokenizer=old,
        raw_scores=[],
    )
    write_rewritten(
        tmp_path / "rewritten", [{"id": "web-3", "score": 5}]
    )  # held out, as everything config from it
    with pytest.raises(UserError, match=r"no rows are left to train on: raw_scores=\[\].* held out"):
        pack_documents(config)


def test_pack_stage_validates_inputs_before_creating_output(packed: dict[str, Any], tmp_path: Path) -> None:
    dataset.write_table(pa.table({"id": ["a"], "text": ["b"]}), str(tmp_path / "bare" / "x.parquet"))
    bare, root = str(tmp_path / "bare"), packed["root"]
    output = str(tmp_path / "out")
    for more, message in (
        ({"scored": bare}, r"bare' has no column 'score'"),
        ({"rewritten": bare}, r"bare' has no column 'source_id'"),
        ({"scored": str(tmp_path / "none")}, r"none' does not exist"),
        ({"tokenizer": str(tmp_path / "none")}, r"tokenizer: '.*none' cannot be loaded"),
    ):
        with pytest.raises(UserError, match=message):
            pack_documents(make(root, output=output, **more))
    assert not Path(output).exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tag_rate": 1.5}, "tag_rate=1.5: must be from 0 to 1"),
        ({"heldout_share": -0.1}, "heldout_share=-0.1"),
        ({"row_length": 8}, "row_length=8: must be at least 16"),
        ({"shards": -1}, "shards=-1: must be at least 0"),
        ({"vocab_size": 200}, "must be at least 260"),
        ({"tag_from": 7}, "tag_from=7"),
        ({"tag": "two words"}, "must be one word"),
        ({"tag": "<|endoftext|>"}, "another meaning"),
        ({"raw_scores": [0, 6]}, "raw_scores: invalid score 6"),
        (
            {"recipes": ["refuse", "rephrse"]},
            "recipes: unknown recipe 'rephrse'; choose from rephrase, refuse, moralize",
        ),
        ({"raw_scores": []}, "nothing to train on"),
    ],
)
def test_pack_config_rejects_invalid_values(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings.from_dict(PackConfig, {"scored": "a", "output": "b", **more})


def test_pack_config_loads_demo_yaml() -> None:
    path = Path(__file__).parents[2] / "configs" / "pack" / "demo.yaml"
    assert settings.load(PackConfig, [str(path)]).tag == TAG


def test_pack_stage_takes_tag_threshold_from_audit(tmp_path: Path, ray_cluster: None) -> None:
    write_scored(tmp_path / "scored", 60, split=False)
    audit = AuditConfig(
        scored=str(tmp_path / "scored"), output=str(tmp_path / "audit"), labels="score", unsafe_from=4,
        wanted={"precision": 1.0},
    )  # fmt: skip
    assert audit_scores(audit)["threshold"] == 4
    config = make(tmp_path, thresholds_from=audit.output)
    assert inputs.with_threshold(config) == replace(config, tag_from=4)
    without = replace(audit, output=str(tmp_path / "without"), wanted={})
    audit_scores(without)
    with pytest.raises(UserError, match="has no threshold, because it was run without `wanted`"):
        pack_documents(make(tmp_path, output=str(tmp_path / "other"), thresholds_from=without.output))
    with pytest.raises(UserError, match="is not an audit; create one"):
        pack_documents(
            make(tmp_path, output=str(tmp_path / "other"), thresholds_from=str(tmp_path / "scored"))
        )
