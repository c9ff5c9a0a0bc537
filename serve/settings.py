"""The endpoint's settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.weights import check_load_format
from safety_ray.decode.modes import MODES, PARAMETERS
from serve.access import AccessRules, check_origin, read_keys
from serve.options import Limits, SafetyOptions, check_limits

_REQUEST_DEFAULTS = ("threshold", "prompt_threshold", "beam_size", "num_candidates", "drop_share", "stride")
"""Settings that are the defaults of a request's parameters of the same name."""


CPU_ROWS = 64
"""Maximum rows of the engine's batch on a CPU, unless a setting says it."""


def check_rows(max_rows: int, num_seqs: int) -> None:
    """Raise UserError if a request may take more rows than the engine's batch has; 0: not known yet."""
    if 0 < num_seqs < max_rows:
        raise UserError(
            f"max_rows={max_rows} must be at most max_num_seqs={num_seqs}, the rows of the engine's batch."
        )


def _default(name: str) -> Any:
    """Declare a setting that is the default of a request parameter."""
    parameter = PARAMETERS[name]
    modes = [mode.name for mode in MODES.values() if name in mode.parameters]
    kind = "mode" if len(modes) == 1 else "modes"
    return setting(f"{parameter.summary} ({kind} {', '.join(modes)})", default=parameter.default)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Serve a model through an OpenAI-compatible endpoint."""

    model: str = setting("a Hugging Face folder, or the output of a finished pretrain or finetune job")
    model_id: str = setting("name of the model in requests", default="safety-ray")
    tag: str = setting(
        "the harmfulness tag; empty: the one stored with the model's tokenizer, else <|harmful|>", default=""
    )

    mode: str = setting(
        "decoding mode of requests that do not set one. "
        + " ".join(f"{mode.name}: {mode.summary}" for mode in MODES.values()),
        default="mask",
    )
    allow_off: bool = setting("whether a request may choose mode off", default=True)
    threshold: float = _default("threshold")
    prompt_threshold: float = _default("prompt_threshold")
    beam_size: int = _default("beam_size")
    num_candidates: int = _default("num_candidates")
    drop_share: float = _default("drop_share")
    stride: int = _default("stride")
    refusal: str = setting("text appended to an answer that the safety mode ended", default="")
    report: bool = setting("report P(tag) with each answer", default=True)

    max_model_len: int = setting(
        "maximum tokens of a prompt and its answer; limited by the model's positions", default=2048
    )
    max_rows: int = setting("maximum beam_size x num_candidates of a request", default=32)
    max_prompts: int = setting("maximum prompts of a request of /v1/completions", default=64)
    max_concurrent: int = setting(
        "maximum concurrent requests of one client, then 429; 0: no limit", default=64
    )
    max_queued_requests: int = setting(
        "maximum requests that wait for rows of an engine, then 503", default=256
    )
    max_body_kib: int = setting("maximum size of a request's body, then 413", default=1024)
    request_timeout_s: float = setting("maximum seconds of an answer, then 503", default=300.0)
    stream_interval_ms: float = setting(
        "interval between a stream's messages after the first token; each message costs CPU time",
        default=50.0,
    )
    api_keys: str = setting(
        "location of the API keys: a file with one per line, or env:NAME; empty: no key is needed",
        default="",
    )
    allow_origins: list[str] = setting(
        "websites whose pages may send requests (CORS), e.g. [https://example.com]; *: all; empty: only the "
        "endpoint's own page",
        factory=list,
    )

    host: str = setting(
        "address to listen on; without api_keys, everyone who can reach it can send requests",
        default="127.0.0.1",
    )
    port: int = setting("port to listen on", default=8000)
    route_prefix: str = setting("path before /v1", default="/")
    http: Literal["auto", "replica", "proxy"] = setting(
        "process that answers HTTP; replica: the only engine's own, on the machine that starts the endpoint; "
        "proxy: Ray Serve's proxy and ingress, for any number of engines; auto: replica on a cluster of one "
        "machine, with max_replicas=1 and route_prefix=/",
        default="auto",
    )
    playground: bool = setting("serve a page to try the modes at the endpoint's root", default=True)

    min_replicas: int = setting("minimum number of engines", default=1)
    max_replicas: int = setting("maximum number of engines, chosen by load", default=1)
    autoscaling: dict[str, Any] = setting(
        "further settings of Ray Serve's autoscaling, e.g. upscale_delay_s; target_ongoing_requests counts "
        "rows of the engine's batch",
        factory=dict,
    )
    health_check_period_s: float = setting("seconds between health checks of each engine", default=10.0)
    drain_s: float = setting("seconds to finish running answers when a replica ends", default=60.0)
    start_timeout_s: float = setting("seconds after which a start has failed", default=600.0)
    start_tries: int = setting("times a replica is started before its failure is final", default=1)

    device: Literal["auto", "cpu", "gpu"] = setting("auto: GPUs if the cluster has any", default="auto")
    max_num_seqs: int = setting(
        "maximum rows of the engine's batch, at least max_rows; a search takes one per candidate; "
        f"0: vLLM's own choice on GPUs, {CPU_ROWS} on CPUs",
        default=0,
    )
    kv_cache_gib: int = setting("device cpu: memory for the key-value cache in GiB", default=1)
    engine_args: dict[str, Any] = setting(
        "any vLLM engine argument; takes precedence over the settings here", factory=dict
    )

    def __post_init__(self) -> None:
        check_limits(self.default_options(), self.limits())
        if "://" in self.model:
            raise UserError(
                f"model={self.model}: the endpoint reads no URL; copy the model to a folder that all of its "
                "machines read."
            )
        if not 1 <= self.port <= 65535:
            raise UserError(f"port must be 1 to 65535, not {self.port}.")
        if not self.route_prefix.startswith("/"):
            raise UserError(f"route_prefix must begin with '/', not '{self.route_prefix}'.")
        if self.http == "replica" and not self.fits_one_replica():
            raise UserError("http=replica needs max_replicas=1 and route_prefix=/.")
        for name in ("min_replicas", "max_replicas"):  # their limits are checked here
            if name in self.autoscaling:
                raise UserError(f"autoscaling.{name}: remove it and set {name} itself.")
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise UserError("min_replicas must be at least 1 and at most max_replicas.")
        for name in (
            "max_model_len",
            "max_rows",
            "max_prompts",
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
        for name in ("max_concurrent", "max_num_seqs", "drain_s", "stream_interval_ms"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative.")
        check_rows(self.max_rows, self.num_seqs())
        check_load_format(self.engine_args, "engine_args")
        for origin in self.allow_origins:
            check_origin(origin)
        if not self.api_keys.startswith("env:"):  # the variable is set on the machines that serve
            read_keys(self.api_keys)

    def fits_one_replica(self) -> bool:
        """Return whether one replica can answer all requests itself."""
        return self.max_replicas == 1 and self.route_prefix == "/"

    def num_seqs(self) -> int:
        """Return the maximum rows of the engine's batch, or 0 if no setting says it."""
        return int(self.engine_args.get("max_num_seqs") or self.max_num_seqs)

    def model_len(self) -> int:
        """Return the maximum tokens of a prompt and its answer, if the model's positions allow them."""
        return int(self.engine_args.get("max_model_len") or self.max_model_len)

    def request_defaults(self) -> dict[str, Any]:
        """Return the default values of the request parameters that an operator can set."""
        return {name: getattr(self, name) for name in _REQUEST_DEFAULTS}

    def default_options(self) -> SafetyOptions:
        """Return the options of a request without the field `safety`."""
        return SafetyOptions(mode=self.mode, **self.request_defaults())

    def limits(self, has_tag: bool = True) -> Limits:
        """Return the limits of requests; a model without the tag supports mode off only."""
        limits = Limits(allow_off=self.allow_off, max_rows=self.max_rows, max_prompts=self.max_prompts)
        return limits if has_tag else replace(limits, allow_off=True, modes=("off",))

    def access(self) -> AccessRules:
        return AccessRules(
            self.api_keys, self.max_concurrent, self.max_body_kib << 10, tuple(self.allow_origins)
        )
