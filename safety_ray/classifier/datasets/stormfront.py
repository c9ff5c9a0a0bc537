"""Posts of a white supremacist forum (de Gibert et al. 2018), each sentence labelled as hate or not.

A post with a hateful sentence is 3 to 5, because the annotators count prejudice as well as calls to
violence. A post without one is 0 to 2, because other posts of the forum are not all harmless.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row


def read(folder: Path) -> Iterator[Row]:
    """Yield the posts."""
    [file] = LABEL_SET.files
    with open(folder / file.path, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            low, high = (3, 5) if row["any_hate"] else (0, 2)
            yield {
                "id": f"stormfront/{row['post_id']}",
                "text": row["text"],
                "label": low,
                "label_max": high,
            }


LABEL_SET = LabelSet(
    name="stormfront",
    contents="posts of a white supremacist forum",
    levels="with a hateful sentence 3–5, without 0–2",
    files=(
        DataFile(
            "toxicity/stormfront_posts.jsonl",
            None,
            "the file is made from the published sentences, and its bytes depend on the JSON writer",
        ),
    ),
    url="https://github.com/Vicomtech/hate-speech-dataset",
    licence="CC BY-SA 3.0 ES",
    how_to_get="Join the sentences in all_files of that repository by post, with labels from "
    "annotations_metadata.csv, one line {post_id, text, any_hate} per post.",
    read=read,
)
