"""A rewriting job in a separate process, to be killed: `python rewrite_job.py FOLDER CLASSIFIER URL`.

The engine `openai` sends requests to the endpoint at URL, which the test controls. Its actor runs on the
second node, if there is one. FOLDER/done exists once the job has returned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import killed

from jobs.rewrite import RewriteConfig, rewrite_documents
from safety_ray.core.config import from_dict

BATCH = 8


def main(folder: Path, classifier: str, url: str) -> None:
    with killed.job(folder):
        rewrite_documents(
            from_dict(
                RewriteConfig,
                {
                    "scored": str(folder / "in"), "classifier": classifier, "output": str(folder / "out"),
                    "recipes": ["rephrase"], "attempts": 1, "actors": 1, "write_rows": BATCH,
                    "accept": {"min_similarity": -1.0, "min_facts": 0.0, "margin": 1}, "max_rejected": 1.0,
                    "engine": {
                        "kind": "openai", "model": "writer", "base_url": url, "api_key_env": "",
                        "concurrency": BATCH, "batch_size": BATCH,
                    },
                },
            )
        )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
