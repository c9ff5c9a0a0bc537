"""Ask an endpoint for the answers to all prompts with all decoders, in tasks whose results are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError
from safety_ray.core.progress import Line
from safety_ray.core.records import stable_hash
from safety_ray.evaluate.decoders import DECODERS
from safety_ray.evaluate.endpoint import ERROR, Endpoint
from safety_ray.evaluate.prompt_sets import Prompt
from safety_ray.evaluate.results import Row, make_rows
from safety_ray.evaluate.settings import Decoding

_PROMPTS_PER_TASK = 32


def ask(
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    decoding: Decoding,
    *,
    chat: bool,
    seed: int,
    parts: str,
) -> tuple[list[Row], list[Row]]:
    """Return the rows of all answers, and the prompts that the endpoint refused, with its reason.

    A prompt that is refused with one decoder is left out with all, so that all answer the same prompts.
    Finished tasks are read from and written to the folder `parts`. Raises UserError if all are refused.
    """
    seeds = [stable_hash(seed, p.prompt_set, p.kind, p.id) % 2**31 for p in prompts]
    fs, root = filesystem.find(parts)
    fs.makedirs(root, exist_ok=True)
    answers: dict[str, list[Row]] = {name: [] for name in names}
    line = Line("answer", len(prompts) * len(names), unit="answers")
    with ThreadPoolExecutor(endpoint.config.concurrency) as pool:
        for first in range(0, len(prompts), _PROMPTS_PER_TASK):
            numbers = range(first, min(first + _PROMPTS_PER_TASK, len(prompts)))
            for name in names:
                path = f"{root}/{name}-{first:06}.json"
                if not fs.exists(path):
                    requests = [
                        pool.submit(endpoint.answer, prompts[n], name, decoding, seeds[n], chat=chat)
                        for n in numbers
                    ]
                    rows = [request.result() for request in requests]
                    fs.pipe_file(f"{path}.part", json.dumps(rows).encode())
                    fs.mv(f"{path}.part", path)
                answers[name] += json.loads(fs.cat_file(path))
                line.show(sum(map(len, answers.values())))
    line.show(sum(map(len, answers.values())), final=True)
    reasons = [
        next((answers[name][n][ERROR] for name in names if ERROR in answers[name][n]), None)
        for n in range(len(prompts))
    ]
    if prompts and all(reasons):
        raise UserError(f"the endpoint {endpoint.config.url} refused all prompts: {reasons[0]}")
    kept = [n for n, reason in enumerate(reasons) if reason is None]
    rows = make_rows(
        [prompts[n] for n in kept],
        {name: [answers[name][n] for n in kept] for name in names},
        {name: [seeds[n] if DECODERS[name].samples else None for n in kept] for name in names},
        chat=chat,
    )
    refused: list[dict[str, Any]] = [
        {"prompt": prompts[n], "reason": reason} for n, reason in enumerate(reasons) if reason is not None
    ]
    return rows, refused
