"""Ask an endpoint for the answers to all prompts with all decoders, in tasks whose results are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import Any

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError
from safety_ray.core.progress import Line
from safety_ray.evaluate.decoders import DECODERS
from safety_ray.evaluate.endpoint import ERROR, Endpoint
from safety_ray.evaluate.prompt_sets import Prompt
from safety_ray.evaluate.results import Row, make_rows
from safety_ray.evaluate.settings import Decoding
from safety_ray.evaluate.tasks import answers_each, seeds_for

_PROMPTS_PER_TASK = 32


def ask(
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    decoding: Decoding,
    *,
    chat: bool,
    seed: int,
    samples: int = 1,
    parts: str,
) -> tuple[list[Row], list[Row]]:
    """Return the rows of all answers, and the prompts that the endpoint refused, with its reason.

    Decoders that sample give `samples` answers to each prompt.

    A prompt that is refused with one decoder is left out with all, so that all answer the same prompts.
    Finished tasks are read from and written to the folder `parts`. Raises UserError if all are refused.
    """
    seeds = {name: [seeds_for(p, seed, answers_each(name, samples)) for p in prompts] for name in names}
    fs, root = filesystem.find(parts)
    fs.makedirs(root, exist_ok=True)
    answers: dict[str, list[Row]] = {name: [] for name in names}
    tasks = [
        (name, range(first, min(first + _PROMPTS_PER_TASK, len(prompts))), f"{root}/{name}-{first:06}.json")
        for first in range(0, len(prompts), _PROMPTS_PER_TASK)
        for name in names
    ]
    earlier = sum(len(seeds[name][n]) for name, numbers, path in tasks if fs.exists(path) for n in numbers)
    line = Line("answer", sum(len(s) for of in seeds.values() for s in of), unit="answers", first=earlier)
    pool = ThreadPoolExecutor(endpoint.config.concurrency)
    try:
        requests = {
            path: [
                pool.submit(endpoint.answer, prompts[n], name, decoding, value, chat=chat)
                for n in numbers
                for value in seeds[name][n]
            ]
            for name, numbers, path in tasks
            if not fs.exists(path)
        }
        path_of = {request: path for path, several in requests.items() for request in several}
        waiting = {path: len(several) for path, several in requests.items()}
        for done, request in enumerate(as_completed(path_of), start=earlier + 1):
            request.result()  # raises what the request raised
            path = path_of[request]
            waiting[path] -= 1
            if not waiting[path]:
                rows = [request.result() for request in requests[path]]
                filesystem.write_file(fs, path, json.dumps(rows).encode())
            line.show(done)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, no further request is sent
    for name, _, path in tasks:
        answers[name] += json.loads(fs.cat_file(path))
    line.show(sum(map(len, answers.values())), final=True)
    of_prompt = {name: _split(answers[name], seeds[name]) for name in names}
    reasons = [
        next((row[ERROR] for name in names for row in of_prompt[name][n] if ERROR in row), None)
        for n in range(len(prompts))
    ]
    if prompts and all(reasons):
        raise UserError(f"the endpoint {endpoint.config.url} refused all prompts: {reasons[0]}")
    kept = [n for n, reason in enumerate(reasons) if reason is None]
    rows = make_rows(
        [prompts[n] for n in kept],
        {name: [row for n in kept for row in of_prompt[name][n]] for name in names},
        {
            name: [value if DECODERS[name].samples else None for n in kept for value in seeds[name][n]]
            for name in names
        },
        chat=chat,
    )
    refused: list[dict[str, Any]] = [
        {"prompt": prompts[n], "reason": reason} for n, reason in enumerate(reasons) if reason is not None
    ]
    return rows, refused


def _split(rows: list[Row], seeds: list[list[int]]) -> list[list[Row]]:
    """Return the answers to each prompt, of which there is one per seed."""
    remaining = iter(rows)
    return [list(islice(remaining, len(of_prompt))) for of_prompt in seeds]
