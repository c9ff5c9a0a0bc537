"""The endpoint's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from serve.access import AccessRules, read_keys
from serve.safety import Asked, Limits, Mode, check_limits


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Serve a model through an OpenAI-compatible endpoint."""

    model: str = setting("a Hugging Face folder, or the output of a finished pretrain or finetune job")
    model_id: str = setting("the model's name in requests", default="safety-ray")
    tag: str = setting(
        "the harmfulness tag; empty: the one stored with the model's tokenizer, else <|harmful|>", default=""
    )

    mode: Mode = setting(
        "for requests that say nothing: off, mask (the tag is never sampled), stop (the text ends at it), "
        "safebeam (Safe Beam Search) or sample (sampling with a look-ahead)",
        default="mask",
    )
    allow_off: bool = setting("whether a request may choose mode off", default=True)
    threshold: float = setting(
        "mode stop: end the text when P(tag) reaches this; below the share of tags in training (0.05)",
        default=0.03,
    )
    prompt_threshold: float = setting(
        "refuse a prompt right after which P(tag) reaches this; 1: refuse none", default=1.0
    )
    beam_size: int = setting("mode safebeam: beams (k)", default=4)
    num_candidates: int = setting("modes safebeam and sample: candidates of each beam (N)", default=4)
    drop_share: float = setting("share of the candidates that is dropped in each step", default=0.5)
    stride: int = setting("look ahead of every s-th token; the paper looks ahead of each", default=1)
    refusal: str = setting("text put after an answer that was ended", default="")
    report: bool = setting("tell each answer's P(tag)", default=True)

    max_model_len: int = setting(
        "tokens of a prompt and its answer at most; never more than the model takes", default=2048
    )
    max_rows: int = setting("beam_size x num_candidates of a request at most", default=32)
    max_concurrent: int = setting("requests of one client at once; more are a 429; 0: any number", default=64)
    max_queued_requests: int = setting("requests that wait for a replica; more are a 503", default=256)
    max_body_kib: int = setting("size of a request's body at most", default=1024)
    request_timeout_s: float = setting("seconds an answer may take; then it is a 503", default=300.0)
    stream_interval_ms: float = setting(
        "a stream's tokens after the first go out this often; each message costs CPU time", default=50.0
    )
    api_keys: str = setting(
        "where the API keys are: a file with one per line, or env:NAME; empty: nobody needs a key", default=""
    )

    host: str = setting(
        "address to listen on; without api_keys whoever reaches it may ask", default="127.0.0.1"
    )
    port: int = setting("port to listen on", default=8000)
    route_prefix: str = setting("path before /v1", default="/")
    playground: bool = setting("show a page to try the modes at the endpoint's root", default=True)

    min_replicas: int = setting("engines at least", default=1)
    max_replicas: int = setting("engines at most, by load", default=1)
    autoscaling: dict[str, Any] = setting(
        "more of Ray Serve's autoscaling settings, e.g. upscale_delay_s", factory=dict
    )
    health_check_period_s: float = setting("seconds between two looks at each engine", default=10.0)
    drain_s: float = setting("seconds that answers under way may take when a replica ends", default=60.0)
    start_timeout_s: float = setting("seconds until a start counts as failed", default=600.0)
    start_tries: int = setting("times a replica is started until its failure counts", default=1)

    device: Literal["auto", "cpu", "gpu"] = setting("auto: GPUs where the cluster has some", default="auto")
    max_num_seqs: int = setting("rows in a batch at most; a search takes one per candidate", default=64)
    kv_cache_gib: int = setting("device cpu: memory for the key-value cache", default=1)
    engine_args: dict[str, Any] = setting(
        "any vLLM engine argument; stands above the settings here", factory=dict
    )

    def __post_init__(self) -> None:
        check_limits(self.asked(), self.limits())
        if not 1 <= self.port <= 65535:
            raise UserError(f"port must be 1 to 65535, not {self.port}.")
        if not self.route_prefix.startswith("/"):
            raise UserError(f"route_prefix must begin with '/', not '{self.route_prefix}'.")
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise UserError("min_replicas must be at least 1 and max_replicas no less.")
        for name in (
            "max_model_len",
            "max_num_seqs",
            "max_rows",
            "max_queued_requests",
            "max_body_kib",
            "request_timeout_s",
            "health_check_period_s",
            "kv_cache_gib",
            "start_timeout_s",
            "start_tries",
        ):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be above 0.")
        for name in ("max_concurrent", "drain_s", "stream_interval_ms"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative.")
        if not self.api_keys.startswith("env:"):  # the environment is that of the cluster's machines
            read_keys(self.api_keys)

    def asked(self) -> Asked:
        """What a request that says nothing asks for."""
        return Asked(
            mode=self.mode,
            threshold=self.threshold,
            prompt_threshold=self.prompt_threshold,
            beam_size=self.beam_size,
            num_candidates=self.num_candidates,
            drop_share=self.drop_share,
            stride=self.stride,
        )

    def limits(self, has_tag: bool = True) -> Limits:
        """What a request may ask for; a model without the tag can do nothing about it."""
        limits = Limits(allow_off=self.allow_off, max_rows=self.max_rows)
        return limits if has_tag else Limits(modes=("off",), max_rows=self.max_rows)

    def access(self) -> AccessRules:
        return AccessRules(self.api_keys, self.max_concurrent, self.max_body_kib << 10)
