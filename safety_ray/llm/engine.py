"""Engines that generate text: a dataset with the column `messages` gets the column `reply`.

Three engines have one config. `vllm` runs a model on the cluster with ray.data.llm. `openai` sends requests
to an OpenAI-compatible endpoint. `template` has no language model: a function of the caller writes the
reply, so that a pipeline runs without a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash, valid_text, without
from safety_ray.core.weights import check_load_format

if TYPE_CHECKING:
    import ray.data

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
"""type of the column `messages`"""
REPLY, ERROR = "reply", "engine_error"
USAGE = ("prompt_tokens", "reply_tokens", "cached_tokens")
"""Numbers of tokens of the prompt, of the reply, and of the prompt's part found in the engine's prefix
cache, as counted by the engine; null if it does not count them."""
SECONDS = "reply_seconds"
"""Seconds from the start of the call with its batch to its reply; null if the engine does not measure it."""
Template = Callable[[dict[str, Any]], str]
Processor = Callable[["ray.data.Dataset"], "ray.data.Dataset"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Settings of the engine that generates the replies."""

    kind: Literal["none", "template", "vllm", "openai"] = setting(
        "vllm (on this cluster), openai (an endpoint), or template (of rewrite: phrases, no language model)",
        default="none",
    )
    model: str = setting("vllm: a folder or hub id; openai: the model's name at the endpoint", default="")
    base_url: str = setting("openai: the endpoint, e.g. http://127.0.0.1:8000/v1", default="", identity=False)
    api_key_env: str = setting(
        "openai: name of the environment variable with the key (not the key), on all machines; "
        "'' for an endpoint without keys",
        default="OPENAI_API_KEY",
        identity=False,
    )
    api_key_file: str = setting(
        "openai: file with the key on all machines, such as a mounted secret, in place of api_key_env",
        default="",
        identity=False,
    )
    device: Literal["auto", "cpu", "gpu"] = setting(
        "vllm: auto: GPUs if the cluster has any now; gpu: wait for GPUs of an autoscaler",
        default="auto",
        identity=False,
    )
    max_tokens: int = setting("maximum tokens in a reply; a truncated reply is an error", default=1024)
    temperature: float = setting("0 selects the most likely token", default=0.7)
    top_p: float = setting("nucleus sampling: cumulative probability", default=0.95)
    seed: int = setting("seed of the sampler", default=0)
    seeded: bool = setting(
        "sample each row with a seed of its own, from `seed` and the row's id; vLLM then samples more slowly",
        default=False,
    )
    concurrency: int = setting(
        "vllm: engine replicas; openai: concurrent requests", default=1, identity=False
    )
    max_concurrency: int = setting(
        "vllm: maximum replicas, added while rows wait; 0: `concurrency`",
        default=0,
        identity=False,
    )
    requests_per_minute: float = setting(
        "openai: maximum rate of requests, retries included; 0: no limit", default=0.0, identity=False
    )
    batch_size: int = setting("rows per call of an engine", default=64, identity=False)
    timeout_s: float = setting(
        "openai: timeout of a request; vllm: seconds without a token after which an engine with open "
        "requests is restarted",
        default=300.0,
        identity=False,
    )
    retries: int = setting("openai: retries of a failed request, with backoff", default=5, identity=False)
    restarts: int = setting("vllm: maximum restarts of a dead or hung replica", default=20, identity=False)
    structured: bool = setting(
        "constrain replies to the JSON schema of a job, if the engine supports it",
        default=True,
    )
    engine_args: dict[str, Any] = setting(
        "vllm: any engine argument, e.g. {max_model_len: 4096, tensor_parallel_size: 2}; "
        "openai: additional fields of the request",
        factory=dict,
    )
    placement_group: dict[str, Any] = setting(
        "vllm: placement of a replica's workers, e.g. "
        "{bundle_per_worker: {GPU: 1, CPU: 4}, strategy: SPREAD}; {}: one GPU per worker, packed",
        factory=dict,
        identity=False,
    )

    def __post_init__(self) -> None:
        if self.is_model and not self.model:
            raise UserError(f"engine.kind={self.kind} needs engine.model.")
        if self.kind == "openai" and not self.base_url:
            raise UserError("engine.kind=openai needs engine.base_url.")
        if self.concurrency < 1 or self.batch_size < 1 or self.max_tokens < 1:
            raise UserError("engine.concurrency, batch_size and max_tokens must be at least 1.")
        if min(self.retries, self.restarts, self.requests_per_minute) < 0 or self.timeout_s <= 0:
            raise UserError(
                "engine.retries, restarts and requests_per_minute must be 0 or positive, "
                "and engine.timeout_s must be positive."
            )
        if self.max_concurrency and self.max_concurrency < self.concurrency:
            raise UserError(
                f"engine.max_concurrency={self.max_concurrency} must be 0 or at least "
                f"engine.concurrency={self.concurrency}."
            )
        if self.kind != "vllm" and (self.max_concurrency or self.placement_group):
            raise UserError("engine.max_concurrency and engine.placement_group are for engine.kind=vllm.")
        if self.kind == "vllm":
            check_load_format(self.engine_args, "engine.engine_args")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("engine.temperature must be 0 or positive, and engine.top_p in (0, 1].")

    @property
    def is_model(self) -> bool:
        """Whether a language model is named."""
        return self.kind in ("vllm", "openai")

    @property
    def sends_seeds(self) -> bool:
        """Whether requests have a seed of their own; at temperature 0 nothing is sampled."""
        return self.seeded and self.temperature > 0

    @property
    def label(self) -> str:
        """Kind and model, as recorded in rows and records."""
        return f"{self.kind}:{self.model}" if self.model else self.kind


def processor(
    config: EngineConfig, template: Template | None = None, schema: dict[str, Any] | None = None
) -> Processor:
    """Return a function that adds `reply` and `engine_error` to a dataset with `messages`.

    `messages` is a list of {role, content}; all other columns are kept. Either `reply` (string) or
    `engine_error` (the reason) is null in every row; the columns `USAGE` and `SECONDS` have token counts
    and time. `template` writes the replies of the engine `template`; a ValueError becomes the row's
    `engine_error`. `schema` is a JSON schema that constrains the replies of vllm and openai. Call `check`
    first, which raises errors before the work.
    """
    if not config.is_model:
        if template is None:
            raise UserError(f"engine.kind={config.kind} has no language model; set it to vllm or openai.")
        return _template(template)
    if config.kind == "openai":
        from safety_ray.llm import openai_engine

        return openai_engine.processor(config, schema if config.structured else None)
    from safety_ray.llm import vllm_engine

    return vllm_engine.processor(config, schema if config.structured else None)


def check(config: EngineConfig) -> None:
    """Raise UserError if the model, endpoint, key or an engine argument does not exist.

    `openai` sends one short request. `vllm` with engine arguments imports vLLM, which takes seconds.
    """
    if config.kind == "openai":
        from safety_ray.llm import openai_engine

        openai_engine.check(config)
    if config.kind == "vllm":
        from safety_ray.llm import vllm_engine

        vllm_engine.check(config)


def row_seed(config: EngineConfig, id: str) -> int:
    """Return the sampler seed of the row `id`, 31 bits, from the config's seed and the id."""
    return stable_hash(config.seed, "engine", id) >> 33


def truncated(config: EngineConfig) -> str:
    """Return the `engine_error` of a truncated reply."""
    return f"the reply was truncated at engine.max_tokens={config.max_tokens}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one row: a reply or an error, with token counts and seconds."""

    reply: str | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    seconds: float | None = None
    cached_tokens: int | None = None


def with_outcomes(rows: pa.Table, outcomes: list[Outcome]) -> pa.Table:
    """Return `rows` with the result columns, replacing columns of the same names."""
    rows = without(rows, REPLY, ERROR, *USAGE, SECONDS)
    for name, values in ((REPLY, [o.reply for o in outcomes]), (ERROR, [o.error for o in outcomes])):
        texts = [value if value is None else valid_text(value) for value in values]
        rows = rows.append_column(name, pa.array(texts, pa.string()))
    for name in USAGE:
        counts = [getattr(outcome, name) for outcome in outcomes]
        rows = rows.append_column(name, pa.array(counts, pa.int64()))
    return rows.append_column(SECONDS, pa.array([outcome.seconds for outcome in outcomes], pa.float32()))


def _template(template: Template) -> Processor:
    def outcome(row: dict[str, Any]) -> Outcome:
        try:
            return Outcome(template(row))
        except ValueError as reason:
            return Outcome(error=str(reason))

    def write(batch: pa.Table) -> pa.Table:
        return with_outcomes(batch, [outcome(row) for row in batch.to_pylist()])

    return lambda ds: ds.map_batches(write, batch_format="pyarrow", batch_size=None)
