"""Published sets of prompts. Each is used whole, in the authors' words; the data are not shipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safety_ray.core.published import DataFile
from safety_ray.evaluate.prompt_sets.prompt_set import (
    HARMFUL,
    HARMLESS,
    Columns,
    PromptSet,
    read_table,
)

ADVBENCH = PromptSet(
    name="advbench",
    contents="520 harmful instructions",
    files=(
        DataFile(
            "safety_eval/advbench_harmful_behaviors.csv",
            "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
        ),
    ),
    read=read_table,
    columns=Columns(prompt="goal"),
    url="https://github.com/llm-attacks/llm-attacks",
    licence="MIT",
    how_to_get="Copy dataset/raw/advbench.csv from https://github.com/andyrdt/refusal_direction "
    "and rename it.",
)


def _harmbench(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the behaviors with their context, in HarmBench's format; those on copyright are left out.

    HarmBench judges copyright by comparing hashes of the copied text, which no judge here does.
    """
    for row in read_table(path):
        if row["FunctionalCategory"] != "copyright":
            context = row["ContextString"]
            prompt = f"{context}\n\n---\n\n{row['Behavior']}" if context else row["Behavior"]
            yield {"id": row["BehaviorID"], "prompt": prompt}


HARMBENCH = PromptSet(
    name="harmbench",
    contents="60 harmful behaviors of the validation set, 19 with a context, without the 20 on copyright",
    files=(
        DataFile(
            "safety_eval/harmbench_text_val.csv",
            "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534",
        ),
    ),
    read=_harmbench,
    url="https://github.com/centerforaisafety/HarmBench",
    licence="MIT",
    how_to_get="Copy data/behavior_datasets/harmbench_behaviors_text_val.csv from "
    "https://github.com/busycalibrating/AdversariaLLM and rename it.",
)


def _tdc2023(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the behaviors of a list of texts."""
    for text in json.loads(path.read_text(encoding="utf-8")):
        yield {"prompt": text}


TDC2023 = PromptSet(
    name="tdc2023",
    contents="50 harmful behaviors of the development phase of the Trojan Detection Challenge 2023",
    files=(
        DataFile(
            "safety_eval/tdc2023_dev_behaviors.json",
            "9392c63ad0193f0510f33812593f0dc71d13ae8b2ad93f64d670e9795deee1b0",
        ),
    ),
    read=_tdc2023,
    url="https://github.com/centerforaisafety/tdc2023-starter-kit",
    licence="MIT",
    how_to_get="Copy dataset/raw/tdc2023_dev_behaviors.json from https://github.com/andyrdt/refusal_direction.",
)

STRONGREJECT = PromptSet(
    name="strongreject",
    contents="313 forbidden prompts of six categories",
    files=(
        DataFile(
            "safety_eval/strongreject.csv",
            "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
        ),
    ),
    read=read_table,
    columns=Columns(prompt="forbidden_prompt"),
    url="https://github.com/alexandrasouly/strongreject",
    licence="MIT",
    how_to_get="Copy data/behavior_datasets/strongreject_dataset.csv from "
    "https://github.com/busycalibrating/AdversariaLLM and rename it.",
)

XSTEST = PromptSet(
    name="xstest",
    contents="200 unsafe prompts (harmful), and 250 safe prompts that sound unsafe (harmless)",
    files=(
        DataFile(
            "over_refusal/xstest_prompts.csv",
            "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
        ),
    ),
    read=read_table,
    columns=Columns(kind="label", kinds={"unsafe": HARMFUL, "safe": HARMLESS}),
    url="https://github.com/paul-rottger/exaggerated-safety",
    licence="CC BY 4.0",
    how_to_get="Copy xstest_prompts.csv from that repository.",
)


def _catqa(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the questions of a mapping of categories to subcategories to lists of texts."""
    for category, subcategories in json.loads(path.read_text(encoding="utf-8")).items():
        for subcategory, questions in subcategories.items():
            for number, text in enumerate(questions):
                yield {"id": f"{category}/{subcategory.rstrip(':')}/{number}", "prompt": text}


CATQA = PromptSet(
    name="catqa",
    contents="500 harmful questions of ten categories; the category on child abuse is left out",
    files=(
        DataFile(
            "safety_eval/catqa_english_no_ca.json",
            "25b276bda898f0bbaac90bbcdbc48d57aedb6d0640048813dda135df0d7f0046",
        ),
    ),
    read=_catqa,
    url="https://github.com/declare-lab/red-instruct",
    licence="Apache-2.0",
    how_to_get="Copy harmful_questions/catqa_english.json from that repository without 'Child Abuse'.",
)


def _jailbreakbench(harmful: Path, benign: Path) -> Iterator[dict[str, Any]]:
    """Yield the behaviors of both files; `Index` counts from 0 in each."""
    for kind, path in ((HARMFUL, harmful), (HARMLESS, benign)):
        for number, row in enumerate(read_table(path)):
            yield {"id": f"{kind}/{row.get('Index', number)}", "prompt": row.get("Goal"), "kind": kind}


UNSEEN = "its columns were read in programs that use it, not in the file itself"
"""Reason for the missing checksum of a file."""

JAILBREAKBENCH = PromptSet(
    name="jailbreakbench",
    contents="100 harmful behaviors (JBB-Behaviors) and 100 harmless ones on the same topics",
    files=(
        DataFile("safety_eval/jbb_harmful_behaviors.csv", None, UNSEEN),
        DataFile("over_refusal/jbb_benign_behaviors.csv", None, UNSEEN),
    ),
    read=_jailbreakbench,
    url="https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
    licence="MIT",
    how_to_get="Copy data/harmful-behaviors.csv and data/benign-behaviors.csv from that dataset and rename "
    "them.",
)
