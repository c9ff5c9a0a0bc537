"""Posts of a white supremacist forum (de Gibert et al. 2018), each sentence labelled hate or not.

A post with a hateful sentence is 3 to 5: its authors count prejudice as well as calls to violence.
A post without one is 0 to 2, for the forum's other talk is not all harmless.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "toxicity/stormfront_posts.jsonl"


def read(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / FILE, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            least, most = (3, 5) if row["any_hate"] else (0, 2)
            yield {
                "id": f"stormfront/{row['post_id']}",
                "text": row["text"],
                "label": least,
                "label_max": most,
            }
