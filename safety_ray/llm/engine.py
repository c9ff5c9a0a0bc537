"""One way to ask for text: rows with `messages` go in, the same rows with `reply` come out.

Three engines behind one config. `vllm` runs a model on the cluster through ray.data.llm; `openai`
asks any OpenAI-compatible endpoint; `template` has no language model at all: the caller's own
function writes the reply, so that a pipeline runs where no model is at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash

if TYPE_CHECKING:
    import ray.data

REPLY, ERROR = "reply", "engine_error"
USAGE = ("prompt_tokens", "reply_tokens", "cached_tokens")
"""Tokens of a row's prompt, of its reply, and those of the prompt that the engine's prefix cache held, as the
engine counts them; null where it does not."""
SECONDS = "reply_seconds"
"""Seconds from when the engine took the row to its reply; null where it does not count."""
Template = Callable[[dict[str, Any]], str]
Processor = Callable[["ray.data.Dataset"], "ray.data.Dataset"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Which engine writes the replies, and how."""

    kind: Literal["template", "vllm", "openai"] = setting(
        "template (no language model), vllm (on this cluster) or openai (an endpoint)",
        default="template",
    )
    model: str = setting("vllm: a folder or hub id; openai: the model's name there", default="")
    base_url: str = setting("openai: the endpoint, e.g. http://127.0.0.1:8000/v1", default="", identity=False)
    api_key_env: str = setting(
        "openai: the environment variable that holds the key, never the key itself; "
        "'' for an endpoint without keys",
        default="OPENAI_API_KEY",
        identity=False,
    )
    max_tokens: int = setting("tokens in a reply at most; a reply cut there is an error", default=1024)
    temperature: float = setting("0 takes the most likely token", default=0.7)
    top_p: float = setting("nucleus of the sampler", default=0.95)
    seed: int = setting("seed of the sampler", default=0)
    concurrency: int = setting("vllm: engine replicas; openai: requests at once", default=1, identity=False)
    max_concurrency: int = setting(
        "vllm: replicas at most; those above `concurrency` come as rows pile up; 0: no more",
        default=0,
        identity=False,
    )
    requests_per_minute: float = setting(
        "openai: requests sent at most, tries included; 0: any", default=0.0, identity=False
    )
    batch_size: int = setting("rows handed to an engine at a time", default=64, identity=False)
    timeout_s: float = setting(
        "openai: seconds for one request; vllm: seconds without a token from an engine that has rows to "
        "answer: it is then ended and begun anew",
        default=300.0,
        identity=False,
    )
    retries: int = setting("openai: tries after a failed one, with growing pauses", default=5, identity=False)
    restarts: int = setting(
        "vllm: times that a dead or hung replica is begun anew", default=20, identity=False
    )
    structured: bool = setting(
        "hold replies to a JSON schema where a job has one; off for endpoints that cannot", default=True
    )
    engine_args: dict[str, Any] = setting(
        "vllm: any engine argument, e.g. {max_model_len: 4096, tensor_parallel_size: 2}; "
        "openai: further fields of the request",
        factory=dict,
    )
    placement_group: dict[str, Any] = setting(
        "vllm: where a replica's workers go, e.g. {bundle_per_worker: {GPU: 1, CPU: 4}, strategy: SPREAD}; "
        "{}: a GPU each, packed",
        factory=dict,
        identity=False,
    )

    def __post_init__(self) -> None:
        if self.kind != "template" and not self.model:
            raise UserError(f"engine.kind={self.kind} needs engine.model.")
        if self.kind == "openai" and not self.base_url:
            raise UserError("engine.kind=openai needs engine.base_url.")
        if self.concurrency < 1 or self.batch_size < 1 or self.max_tokens < 1:
            raise UserError("engine.concurrency, batch_size and max_tokens must be at least 1.")
        if min(self.retries, self.restarts, self.requests_per_minute) < 0 or self.timeout_s <= 0:
            raise UserError(
                "engine.retries, restarts and requests_per_minute must not be negative, "
                "and engine.timeout_s must be positive."
            )
        if self.max_concurrency and self.max_concurrency < self.concurrency:
            raise UserError(
                f"engine.max_concurrency={self.max_concurrency} must be 0 or at least "
                f"engine.concurrency={self.concurrency}."
            )
        if self.kind != "vllm" and (self.max_concurrency or self.placement_group):
            raise UserError("engine.max_concurrency and engine.placement_group are for engine.kind=vllm.")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("engine.temperature must not be negative, and engine.top_p lies in (0, 1].")

    @property
    def label(self) -> str:
        """What a row says of its writer: the kind and the model."""
        return f"{self.kind}:{self.model}" if self.model else self.kind


def processor(
    config: EngineConfig, template: Template | None = None, schema: dict[str, Any] | None = None
) -> Processor:
    """A function from a dataset with `messages` to the same rows with `reply` and `engine_error`.

    `messages` is a list of {role, content}; all other columns are kept as they are. One of `reply`
    (string) and `engine_error` (the reason) is null in every row; the columns `USAGE` and `SECONDS`
    say what it took. `template` writes the reply of engine `template`; its ValueError is the reason of
    that row. `schema` is a JSON schema that
    vllm and openai hold replies to. Call `check` first: raises what it raises.
    """
    if config.kind == "template":
        if template is None:
            raise UserError("engine.kind=template has no language model; set it to vllm or openai here.")
        return _template(template)
    if config.kind == "openai":
        from safety_ray.llm import openai_engine

        return openai_engine.processor(config, schema if config.structured else None)
    from safety_ray.llm import vllm_engine

    return vllm_engine.processor(config, schema if config.structured else None)


def check(config: EngineConfig) -> None:
    """UserError where the engine cannot work: no such model, endpoint, key or engine argument.

    Takes no time for `template`, one short request for `openai`, and imports vLLM to know the names
    of its engine arguments.
    """
    if config.kind == "openai":
        from safety_ray.llm import openai_engine

        openai_engine.check(config)
    if config.kind == "vllm":
        from safety_ray.llm import vllm_engine

        vllm_engine.check(config)


def row_seed(config: EngineConfig, row: dict[str, Any]) -> int:
    """The sampler's seed for one row: of the config's seed and the row's id, 31 bits."""
    return stable_hash(config.seed, "engine", row["id"]) >> 33


def cut(config: EngineConfig) -> str:
    """The reason of a reply that did not end by itself."""
    return f"the reply was cut at engine.max_tokens={config.max_tokens}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an engine made of one row: a reply or the reason why there is none, and what it took."""

    reply: str | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    seconds: float | None = None
    cached_tokens: int | None = None


def with_outcomes(rows: pa.Table, outcomes: list[Outcome]) -> pa.Table:
    """`rows` with the result columns, whatever columns of these names they had before."""
    rows = rows.drop_columns([name for name in (REPLY, ERROR, *USAGE, SECONDS) if name in rows.column_names])
    rows = rows.append_column(REPLY, pa.array([one.reply for one in outcomes], pa.string()))
    rows = rows.append_column(ERROR, pa.array([one.error for one in outcomes], pa.string()))
    for name in USAGE:
        rows = rows.append_column(name, pa.array([getattr(one, name) for one in outcomes], pa.int64()))
    return rows.append_column(SECONDS, pa.array([one.seconds for one in outcomes], pa.float32()))


def _template(template: Template) -> Processor:
    def outcome(row: dict[str, Any]) -> Outcome:
        try:
            return Outcome(template(row))
        except ValueError as reason:
            return Outcome(error=str(reason))

    def write(batch: pa.Table) -> pa.Table:
        return with_outcomes(batch, [outcome(row) for row in batch.to_pylist()])

    return lambda ds: ds.map_batches(write, batch_format="pyarrow", batch_size=None)
