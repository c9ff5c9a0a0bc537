"""Rewriting with a real engine that is killed: a small model with good replies and each kind of bad reply."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from ray_head import Head
from tiny_writer import ENDLESS, train
from waiting import eventually

from jobs.rewrite import RewriteConfig, rewrite_documents
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import dataset
from safety_ray.core.config import from_dict
from safety_ray.core.records import SCORED, schema
from safety_ray.rewrite import acceptance, tasks
from safety_ray.rewrite.compare import sentence_encoder, similarities

pytest.importorskip("vllm")
pytestmark = pytest.mark.covers(
    "safety_ray.rewrite", "safety_ray.llm.vllm_engine", "safety_ray.llm.watchdog", "safety_ray.llm.notices"
)
LABELLED = [json.loads(line) for line in (Path(__file__).parents[1] / "rewrite" / "acceptance.jsonl").open()]
PLAIN = "A dull note about {} things that were said in the town of Ulm."
OTHER_REPLIES = {
    "declined": ("declined", "I'm sorry, but I can't help with that."),
    "endless": ("engine", "and so it continues" + ", and on" * 40 + ENDLESS),
    "empty": ("engine", ""),
    "short": ("form", "Too short."),
}
"""kind and text of replies whose kinds do not occur in the labelled sample"""
MAX_TOKENS, TIMEOUT_S = 160, 20.0
STARTED_S = 1200.0  # enough for an engine to start and answer on any machine


def documents() -> tuple[list[dict[str, Any]], dict[str, tuple[str, str]]]:
    """Return scored documents, and for each id the reply and its kind as labelled by a person ("" is good).

    From the labelled sample it takes two good texts per recipe and one of each kind of bad text.
    """
    seen: Counter[tuple[str, str]] = Counter()
    rows, replies = [], {}
    for n, labelled in enumerate(LABELLED):
        key = (labelled["recipe"], labelled["why"])
        seen[key] += 1
        if labelled["recipe"] != "moralize" and seen[key] <= (1 if labelled["why"] else 2):
            score = labelled["source_score"] if labelled["recipe"] == "rephrase" else 4
            rows.append({"id": f"d{n}", "text": labelled["source"], "score": score})
            replies[f"d{n}"] = (labelled["why"], labelled["text"])
    for name, kind_and_reply in OTHER_REPLIES.items():
        rows.append({"id": name, "text": PLAIN.format(name), "score": 3})
        replies[name] = kind_and_reply
    for row in rows:
        row |= {
            "probs": [float(n == row["score"]) for n in range(6)],
            "scored_chunks": [{"end": len(row["text"]), "score": row["score"]}],
        }
    return rows, replies


def test_rewrite_vllm_reports_reply_kinds_and_restarts_engine(
    tmp_path: Path, classifier: Path, ray_cluster: Head, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, replies = documents()
    dataset.write_table(pa.Table.from_pylist(rows, schema(SCORED)), str(tmp_path / "in" / "a.parquet"))
    config = from_dict(
        RewriteConfig,
        {
            "scored": str(tmp_path / "in"), "classifier": str(classifier), "output": str(tmp_path / "out"),
            "recipes": ["rephrase", "refuse"], "attempts": 1, "actors": 1, "write_rows": 2,
            "max_rejected": 1.0,
            "engine": {
                "kind": "vllm", "model": str(tmp_path / "model"), "max_tokens": MAX_TOKENS,
                "temperature": 0.0,
                "batch_size": 2, "timeout_s": TIMEOUT_S,
                "engine_args": {
                    "max_model_len": 1024, "max_num_seqs": 1, "dtype": "float32",
                    "logits_processors": ["tests.slow.paced_engine:Pace"],
                    "additional_config": {"slow_while": str(tmp_path / "slow")},
                },
            },
        },
    )  # fmt: skip
    rewrite_tasks = tasks.from_documents(
        dataset.table(config.scored), config.recipe_of(), config.task_options()
    ).to_pylist()
    loss = train(
        tmp_path / "model", [(row["messages"], replies[row["source_id"]][1]) for row in rewrite_tasks]
    )
    assert loss < 0.05, "the model has learned its replies"
    trouble = Trouble(ray_cluster, Path(config.output), slow_while=tmp_path / "slow")
    record = rewrite_documents(config)
    trouble.join()
    assert [len(trouble.engines), trouble.failed] == [3, None], "one killed, one hung, one to the end"
    messages = capfd.readouterr().err
    assert "vLLM's process EngineCore was killed by SIGKILL" in messages
    assert f"the engine generated no token for engine.timeout_s={TIMEOUT_S:g} s and was killed" in messages
    written = {row["source_id"]: row for name in ("data", "rejected") for row in read(config.output, name)}
    assert written.keys() == replies.keys()
    for row in rewrite_tasks:
        kind, reply = replies[row["source_id"]]
        if kind not in ("engine", "form"):
            assert written[row["source_id"]]["text"].split() == reply.split()
    assert record["attempts"] == {"direct": expected(rewrite_tasks, replies, classifier)}
    assert record["attempts"]["direct"]["accepted"] >= 2
    tokens = record["tokens"]
    assert tokens["prompt_tokens"] > tokens["cached_tokens"] > 0, "the prompts of a recipe begin alike"
    assert tokens["reply_tokens"] > 0


class Trouble(threading.Thread):
    """Kill the first engine process once rows are written, and suspend the second one once more are.

    Both are slow after a few requests, so that neither answers all rows before some are written.
    """

    def __init__(self, head: Head, output: Path, slow_while: Path) -> None:
        super().__init__(daemon=True)
        self.head, self.output, self.engines = head, output, set[int]()
        self.slow_while = slow_while
        self.failed: BaseException | None = None
        slow_while.touch()
        self.start()

    def run(self) -> None:
        try:
            first = self.engine()
            self.wait_for_rows()
            first.kill()
            hung = self.engine()
            self.wait_for_rows()
            hung.suspend()
            self.slow_while.unlink()
            hung.wait(timeout=STARTED_S)  # the watchdog kills it
            self.engine()
        except BaseException as error:
            self.failed = error

    def engine(self) -> psutil.Process:
        """Return the next engine process, once it has started."""
        (process,) = eventually(
            lambda: [child for child in self.head.workers("EngineCore") if child.pid not in self.engines],
            STARTED_S,
            every=0.1,
        )
        self.engines.add(process.pid)
        return process

    def wait_for_rows(self) -> None:
        """Wait until more files of rows are on disk."""
        before = self.files()
        eventually(lambda: self.files() > before, STARTED_S, every=0.1)

    def files(self) -> int:
        return sum(1 for _ in self.output.glob("drafts/generated/direct/data/*.parquet"))


def expected(
    rewrite_tasks: list[dict[str, Any]], replies: dict[str, tuple[str, str]], classifier: Path
) -> dict[str, int]:
    """Return the expected count of each kind, computed directly from the replies used for training."""
    texts = [replies[row["source_id"]][1] for row in rewrite_tasks]
    scores = [prediction.score for prediction in Classifier.load(classifier, "cpu").predict(texts)]
    similarity_of = similarities(
        sentence_encoder(),
        [(text or "-", row["source"]) for text, row in zip(texts, rewrite_tasks, strict=True)],
    )
    kinds: Counter[str] = Counter()
    for row, text, score, similarity in zip(rewrite_tasks, texts, scores, similarity_of, strict=True):
        why = replies[row["source_id"]][0]
        if why not in ("engine", "declined", "form"):
            draft = {**row, "text": text, "score": score, "similarity": similarity}
            reason = acceptance.rejection_reason(draft, acceptance.Bounds())
            assert reason or not why, f"{row['source_id']}: accepted, but labelled {why}"
            why = acceptance.reason_kind(reason) if reason else "accepted"
        kinds[why] += 1
    return dict(kinds)


def read(output: str, name: str) -> list[dict[str, Any]]:
    return pads.dataset(f"{output}/{name}", format="parquet").to_table().to_pylist()
