"""The prompts of an evaluation: samples of prompt sets and of document beginnings, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from safety_ray.evaluate import documents, prompt_sets
from safety_ray.evaluate.documents import Chosen
from safety_ray.evaluate.prompt_sets import DOCUMENTS, HARMFUL, HARMLESS, Prompt, Sample

Samples = dict[str, dict[str, Sample]]
"""samples by set and kind"""


def inputs(datasets: list[str], names: list[str], data: str) -> dict[str, str]:
    """Return the inputs of a stage that reads prompts of `datasets` and of the sets in `names`, by key.

    Files below `data` with a known checksum are none: they cannot change.
    """
    files = {f"prompt_sets.{path}": path for path in prompt_sets.own_files(names)}
    files |= {f"prompt_sets.{path}": path for path in prompt_sets.unchecked_files(names, data)}
    return {f"documents.{n}": path for n, path in enumerate(datasets)} | files


def choose(
    names: list[str],
    data: str,
    chosen: Chosen | None,
    *,
    words: int,
    limit: int,
    seed: int,
    skip: int = 0,
    columns: Mapping[str, str] | None = None,
) -> Samples:
    """Sample at most `limit` prompts (0: all) of each set in `names` and each kind, after the first `skip`.

    `chosen` are the sampled documents, if there are any. Beginnings of `words` words of unsafe documents are
    harmful prompts, and those of safe ones harmless. `columns` has the names of columns in files of one's
    own. Raises UserError if a set's file is missing or not as declared.
    """
    samples: Samples = {}
    for name in names:
        if name == DOCUMENTS:
            assert chosen is not None  # checked with the settings
            samples[name] = {
                kind: documents.beginnings(
                    members, words=words, limit=limit, skip=skip, others=chosen.others[kind == HARMFUL]
                )
                for kind, members in ((HARMFUL, chosen.unsafe), (HARMLESS, chosen.safe))
            }
        else:
            samples[prompt_sets.title(name)] = prompt_sets.load(name, data, limit, seed, skip, columns)
    return samples


def flat(samples: Samples) -> list[Prompt]:
    """Return the prompts of all samples in their order."""
    return [prompt for kinds in samples.values() for sample in kinds.values() for prompt in sample.prompts]


def counts(
    samples: Samples, answered: Sequence[Prompt], unanswered: str = "too_long"
) -> list[dict[str, Any]]:
    """Return, per set and kind, how many prompts were answered and why others were not.

    `unanswered` is the reason for those that were sampled and not answered.
    """
    used = Counter((prompt.prompt_set, prompt.kind) for prompt in answered)
    return [
        {
            "prompt_set": name,
            "kind": kind,
            "answered": used[name, kind],
            unanswered: len(sample.prompts) - used[name, kind],
            **sample.left_out,
        }
        for name, kinds in samples.items()
        for kind, sample in kinds.items()
    ]
