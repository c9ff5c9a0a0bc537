"""General ability: tasks of lm-evaluation-harness, by name or by a task file, with the tag left out.

The package lm-eval is optional. The tag annotates text and decoding never emits it, so the probabilities of
all other tokens are renormalized, as for perplexity (reading.py): models with and without the tag can be
compared.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from safety_ray.core.batching import batches_by_length
from safety_ray.core.errors import UserError
from safety_ray.core.markdown import table
from safety_ray.core.tag import encode, start_ids
from safety_ray.evaluate import decoders
from safety_ray.evaluate.decoders import GREEDY
from safety_ray.evaluate.reading import MAX_LOGITS, padded
from safety_ray.evaluate.settings import Decoding

ABILITY = "ability"
_NEW_TOKENS = 256  # the harness's default


@dataclass(frozen=True, slots=True)
class AbilityTask:
    """A task of lm-eval."""

    task: str
    """a name, or the absolute path of a task file"""
    limit: int
    """maximum number of its documents; 0: all"""
    seed: int
    size: int = 1

    @property
    def name(self) -> str:
        """Name of the file with the results."""
        return f"{ABILITY}-{title(self.task)}.json"


def title(task: str) -> str:
    """Return the name under which the results of a task are reported."""
    return Path(task).stem if is_file(task) else task


def check(tasks: list[str]) -> None:
    """Raise UserError if lm-eval is missing, or does not know one of the tasks."""
    if not tasks:
        return
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError(
            "lm_tasks needs the package lm-eval; install it with .venv/bin/pip install --no-deps -r "
            "requirements/lm-eval.txt."
        ) from None
    named = [task for task in tasks if not is_file(task)]
    known = set(TaskManager().all_tasks) if named else set()
    for task in tasks:
        if is_file(task) and not Path(task).is_file():
            raise UserError(f"lm_tasks: the task file '{task}' does not exist.")
        if not is_file(task) and task not in known:
            raise UserError(
                f"lm_tasks: lm-eval has no task '{task}'; `python -m lm_eval ls tasks` lists its tasks, or "
                "give a task file (.yaml)."
            )


def absolute(task: str) -> str:
    """Return a task for a process with another working directory."""
    return str(Path(task).absolute()) if is_file(task) else task


def run(task: AbilityTask, network: Any, tokenizer: Any, decoding: Decoding) -> dict[str, dict[str, float]]:
    """Return the metrics of a task, or of each task of a group, by its name."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    name, manager = task.task, TaskManager() if not is_file(task.task) else None
    if manager is None:
        path = Path(task.task)
        # A YAML parser would need lm-eval's own tags, such as `!function`.
        found_name = re.search(r"^task:\s*['\"]?([^\s'\"#]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        name = found_name[1] if found_name else path.stem
        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
    evaluated = simple_evaluate(
        model=_model(network, tokenizer, decoding),
        tasks=[name],
        task_manager=manager,
        limit=task.limit or None,
        log_samples=False,
        bootstrap_iters=1000,
        random_seed=task.seed,
        numpy_random_seed=task.seed,
        torch_random_seed=task.seed,
        fewshot_random_seed=task.seed,
    )
    assert evaluated is not None
    return {
        name: {
            metric.removesuffix(",none"): float(value)
            for metric, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        for name, values in evaluated["results"].items()
    }


def is_file(task: str) -> bool:
    """Return whether a task is a file, and not the name of one."""
    return task.endswith((".yaml", ".yml"))


def _model(network: Any, tokenizer: Any, decoding: Decoding) -> Any:
    """Return the model as lm-eval asks for it."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    settings = network.config.get_text_config()
    positions = getattr(settings, "max_position_embeddings", None) or 2048
    start = start_ids(tokenizer)

    class Model(TemplateLM):  # type: ignore[misc]
        @property
        def eot_token_id(self) -> int:
            return int(tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            return start[0] if start else self.eot_token_id

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            [ids] = encode(tokenizer, [string])
            return list(ids) if add_special_tokens is False else [*start, *ids]

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            rows = [([*context, *continuation], len(continuation)) for _, context, continuation in requests]
            return log_likelihoods(network, rows, decoding.tag_id, positions)

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            totals = []
            for request in requests:
                windows = get_rolling_token_windows(
                    self.tok_encode(request.args[0], add_special_tokens=False),
                    self.prefix_token_id, positions, 1,
                )  # fmt: skip
                pairs = [("", *make_disjoint_window(window)) for window in windows]
                totals.append(sum(value for value, _ in self._loglikelihood_tokens(pairs)))
            return totals

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return [self._generate(*request.args) for request in requests]

        def _generate(self, context: str, arguments: dict[str, Any]) -> str:
            if arguments.get("do_sample") or arguments.get("temperature"):
                raise UserError(
                    "lm_tasks: a task asks for sampling, but answers are greedy; set do_sample to false and "
                    "temperature to 0 in the task file."
                )
            number = min(int(arguments.get("max_gen_toks", _NEW_TOKENS)), positions // 2)
            ids = self.tok_encode(context)[-(positions - number) :]
            made = replace(decoding, max_new_tokens=number)
            [row] = decoders.answer(network, tokenizer, [ids], GREEDY, made, [0])
            until = arguments.get("until") or []
            stops = [until] if isinstance(until, str) else until
            ends = [row["answer"].index(stop) for stop in stops if stop and stop in row["answer"]]
            return str(row["answer"][: min(ends, default=len(row["answer"]))])

    return Model()


@torch.inference_mode()
def log_likelihoods(
    network: Any, rows: list[tuple[list[int], int]], tag_id: int | None, positions: int
) -> list[tuple[float, bool]]:
    """Return, for each row of token ids, log P of its last tokens, and whether each is the most likely one.

    A row has the number of tokens that are measured. The tag's probability is left out. Rows that are longer
    than the model's context are cut at their beginning.
    """
    vocabulary = network.config.get_text_config().vocab_size
    rows = [(ids[-(positions + 1) :], number) for ids, number in rows]
    values: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
    for batch in batches_by_length([len(ids) for ids, _ in rows], max(1, MAX_LOGITS // vocabulary)):
        ids_BT = padded([rows[n][0] for n in batch], network.device)
        logits_BTV = network(input_ids=ids_BT[:, :-1], use_cache=False).logits.float()
        if tag_id is not None:
            logits_BTV[..., tag_id] = -torch.inf
        log_probs_BTV = logits_BTV.log_softmax(-1)
        for row, n in enumerate(batch):
            ids, number = rows[n]
            number = min(number, len(ids) - 1)
            table_KV = log_probs_BTV[row, len(ids) - 1 - number : len(ids) - 1]
            target_K = ids_BT[row, len(ids) - number : len(ids)]
            chosen_K = table_KV.gather(-1, target_K[:, None])[:, 0]
            values[n] = (chosen_K.double().sum().item(), bool((table_KV.argmax(-1) == target_K).all()))
    return values


def lines(results: dict[str, dict[str, float]]) -> list[str]:
    """Return a Markdown table of the metrics."""
    rows = []
    for task, metrics in results.items():
        for metric, value in metrics.items():
            if "_stderr" in metric or metric == "sample_len":
                continue
            error = metrics.get(f"{metric}_stderr")
            rows.append([f"`{task}`", metric, f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")])
    return table(["task", "metric", "value ± standard error"], rows, 2)
