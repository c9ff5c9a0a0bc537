"""Arguments of every job, for small runs with all files but the chats below one folder or URL."""

from __future__ import annotations

import json
from typing import Any

from endpoint import completion
from small_pipeline import DEMO, FIT, SMALL

CHATS = "examples/chats.jsonl"
JUDGE_KEY = "JUDGE_KEY"
"""Name of the environment variable with the key of the judge"""


def judge(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Label documents, and repeat the key in the message of every fifth answer, which is an error."""
    length = len(body["messages"][-1]["content"])
    if length % 5 == 0:
        return 400, {"error": {"message": f"bad request with {headers['Authorization']}"}}
    return 200, completion(json.dumps({"score": length % 6, "reason": "because of its words"}))


def commands(folder: str, judge_url: str, chats: str = CHATS) -> dict[str, list[str]]:
    """Return the arguments of the pipeline, and of each job that is none of its stages here."""

    def judged(section: str) -> list[str]:
        settings = ["kind=openai", "model=judge", f"base_url={judge_url}", f"api_key_env={JUDGE_KEY}"]
        return [*(f"{section}.{setting}" for setting in settings), "max_rejected=1.0"]

    tiny = ["hidden_size=32", "layers=1", "heads=2", "kv_heads=2", "intermediate_size=64"]
    return {
        "pipeline": [
            DEMO, f"output={folder}", "corpus.documents=560", *FIT, *SMALL, "pretrain.max_steps=20",
            f"finetune.chats={chats}", "finetune.epochs=1", "finetune.batch_rows=8",
            "finetune.tagged_share=0.5", "until=evaluate",
        ],
        "label": [f"documents={folder}/corpus/heldout", f"output={folder}/label", *judged("engine")],
        "audit": [f"scored={folder}/score", f"output={folder}/audit", "per_score=5", *judged("judge")],
        "publish": [f"input={folder}/rewrite", f"output={folder}/publish"],
        "collect": ["sources=[stance]", f"output={folder}/collect"],
        "ingest": [f"input={folder}/corpus/heldout", f"output={folder}/parts", "partition=1/1"],
        "merge": [f"output={folder}/parts"],
        "abliterate": [
            f"model={folder}/pretrain", f"documents=[{folder}/score]", f"output={folder}/abliterate"
        ],
        "ablate": [
            f"output={folder}/ablate", "arms={tags: {}}", f"pack.scored={folder}/score",
            "pack.row_length=128",
            "pack.vocab_size=512", "pack.heldout_share=0.2", "pack.shards=1", "pretrain.max_steps=3",
            "pretrain.batch_rows=4", "pretrain.workers=1", *(f"pretrain.model.{word}" for word in tiny),
            "evaluate.max_documents=10", "evaluate.max_prompts=4", "evaluate.max_new_tokens=4",
            "evaluate.prompt_words=5", "evaluate.workers=1", "evaluate.resamples=200",
        ],
    }  # fmt: skip
