"""A request's safety options: the body's field `safety`, its defaults and its limits.

    {"safety": {"mode": "safebeam", "beam_size": 4, "num_candidates": 4}}

The modes and their parameters are declared in safety_ray/decode/modes.py.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from safety_ray.core.errors import UserError, nearest
from safety_ray.decode.modes import MODES, PARAMETERS, DecodingMode, Sampling
from safety_ray.decode.processor import TagPolicy, check_threshold
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.words import WordStarts

_PREFIX = "safety_"
"""Prefix of the options among vLLM's extra arguments (`vllm_xargs`)."""

_SEARCH_SETTINGS = (
    *("beam_size", "num_candidates", "drop_share", "stride", "length_penalty"),
    *("drop_by", "drop_threshold", "early_stopping"),
)
# Sampling parameters that would change the probabilities that a search reads, and their neutral values.
_NOT_IN_SEARCH = (
    ("presence_penalty", 0.0),
    ("frequency_penalty", 0.0),
    ("repetition_penalty", 1.0),
    ("min_p", 0.0),
    ("min_tokens", 0),
    ("logit_bias", None),
    ("allowed_token_ids", None),
    ("bad_words", None),
    ("structured_outputs", None),
    ("prompt_logprobs", None),
    ("repetition_detection", None),
    ("thinking_token_budget", None),
)


@dataclass(frozen=True, slots=True)
class SafetyOptions:
    """The mode of one request and the values of all parameters (safety_ray.decode.modes.PARAMETERS)."""

    mode: str = "mask"
    threshold: float = float(PARAMETERS["threshold"].default)
    prompt_threshold: float = float(PARAMETERS["prompt_threshold"].default)
    beam_size: int = int(PARAMETERS["beam_size"].default)
    num_candidates: int = int(PARAMETERS["num_candidates"].default)
    drop_share: float = float(PARAMETERS["drop_share"].default)
    stride: int = int(PARAMETERS["stride"].default)
    drop_by: str = str(PARAMETERS["drop_by"].default)
    drop_threshold: float = float(PARAMETERS["drop_threshold"].default)
    early_stopping: str = str(PARAMETERS["early_stopping"].default)
    length_penalty: float = float(PARAMETERS["length_penalty"].default)
    explain: bool = bool(PARAMETERS["explain"].default)

    def __post_init__(self) -> None:
        if not isinstance(self.mode, str) or self.mode not in MODES:
            raise UserError(f"unknown safety mode {self.mode!r}; choose from {', '.join(MODES)}.")
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if kind == "int" and (isinstance(value, bool) or not isinstance(value, int)):
                raise UserError(f"safety.{field.name} must be an integer, not {value!r}.")
            if kind == "float" and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise UserError(f"safety.{field.name} must be a number, not {value!r}.")
            if (
                kind == "float" and not abs(value) <= sys.float_info.max
            ):  # also an integer too large for a float
                raise UserError(f"safety.{field.name} must be a finite number.")
            if kind == "bool" and not isinstance(value, bool):
                raise UserError(f"safety.{field.name} must be true or false, not {value!r}.")
            if kind == "str" and not isinstance(value, str):
                raise UserError(f"safety.{field.name} must be a string, not {value!r}.")
        check_threshold("threshold", self.threshold)
        check_threshold("prompt_threshold", self.prompt_threshold)
        # Use the checks of the search; the tag, the length and the tokenizer are not known here.
        SearchSettings(
            tag_id=-1,
            max_new_tokens=1,
            words=WordStarts(),
            **{name: getattr(self, name) for name in _SEARCH_SETTINGS},
        )

    @property
    def decoding(self) -> DecodingMode:
        return MODES[self.mode]

    @property
    def rows(self) -> int:
        """Largest number of rows of the engine's batch that one answer takes."""
        return self.decoding.rows(asdict(self))

    def num_searches(self, answers: int) -> int:
        """Return 1 if the answers to a prompt are beams of one search, else one search per answer."""
        return answers if self.decoding.searches and self.decoding.samples else 1

    def policy(self) -> TagPolicy:
        """Return the settings of the engine's logits processor; for modes that do not search."""
        return TagPolicy(self.mode, self.threshold, self.prompt_threshold)

    def search(
        self, params: Any, tag_id: int, max_new_tokens: int, index: int, words: WordStarts | None = None
    ) -> Search:
        """Return the search for the `index`-th answer of a request with vLLM's SamplingParams `params`.

        `words` are the tokens that begin a word, which drop_by "word" needs.
        """
        eos_ids = frozenset(params.stop_token_ids or ())
        if not params.ignore_eos and params.eos_token_id is not None:
            eos_ids |= {params.eos_token_id}
        seed = secrets.randbits(31) if params.seed is None else params.seed + index
        return self.decoding.search(
            asdict(self),
            Sampling(params.temperature, params.top_p, seed),
            tag_id=tag_id,
            eos_ids=eos_ids,
            max_new_tokens=max_new_tokens,
            words=words,
        )

    def check_sampling(self, params: Any) -> None:
        """Raise UserError for sampling parameters that have no effect in a search."""
        for name, neutral in _NOT_IN_SEARCH:
            value = getattr(params, name, neutral)
            if value != neutral and value:
                asked = "prompt_logprobs (echo with logprobs)" if name == "prompt_logprobs" else name
                raise UserError(f"safety mode {self.mode} does not support {asked}; leave it out.")
        if self.decoding.samples and params.top_k > 0:
            raise UserError(f"in safety mode {self.mode}, num_candidates is the top_k; leave out top_k.")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of requests, set by the operator of an endpoint."""

    allow_off: bool = True
    max_rows: int = 32  # of one answer in a search; also the number of answers of a request
    max_prompts: int = 64  # of one request
    max_candidates: int = 19
    modes: tuple[str, ...] = tuple(MODES)  # a model without the tag offers off only

    def allowed_modes(self) -> list[str]:
        return [mode for mode in self.modes if mode != "off" or self.allow_off]


def parse_options(values: Mapping[str, Any] | None, default: SafetyOptions, limits: Limits) -> SafetyOptions:
    """Return the options in a request's field `safety`; `default` fills in missing ones.

    Raises UserError, in one sentence, for an unknown option, a value out of range, or more than `limits`.
    """
    if values is not None and not isinstance(values, Mapping):
        raise UserError('\'safety\' must be an object, for example {"mode": "stop", "threshold": 0.05}.')
    given = {key: value for key, value in (values or {}).items() if value is not None}
    names = [field.name for field in fields(SafetyOptions)]
    for key in given:
        if key not in names:
            raise UserError(f"unknown safety setting '{key}'; the nearest is '{nearest(str(key), names)}'.")
    options = replace(default, **given)
    for key in given:
        if key != "mode" and key not in options.decoding.parameters:
            modes = [mode.name for mode in MODES.values() if key in mode.parameters]
            raise UserError(
                f"safety.{key} is a setting of mode {' or '.join(modes)}, not of mode {options.mode}."
            )
    check_limits(options, limits)
    return options


def options_in_xargs(xargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in a request's `vllm_xargs`: {"safety_mode": "stop"} gives {"mode": "stop"}.

    Raises UserError for any other argument, since the engine's own code reads them.
    """
    names = [_PREFIX + field.name for field in fields(SafetyOptions)]
    for name in xargs:
        if name not in names:
            raise UserError(f"vllm_xargs has no argument {name!r}; the nearest is '{nearest(name, names)}'.")
    kinds = {_PREFIX + field.name: field.type for field in fields(SafetyOptions)}
    # vLLM's type of this field turns true into 1.
    values = {
        name: bool(value) if kinds[name] == "bool" and value in (0, 1) else value
        for name, value in xargs.items()
    }
    return {name.removeprefix(_PREFIX): value for name, value in values.items()}


def check_fields(request: Any) -> None:
    """Raise UserError for fields of vLLM's requests that would bypass the guard."""
    for name in ("kv_transfer_params", "ec_transfer_params", "return_assistant_tokens_mask"):
        if getattr(request, name, None):
            raise UserError(f"{name} is not supported: it would bypass the guard.")
    if getattr(request, "use_beam_search", False):
        raise UserError("use_beam_search is not supported; use safety mode safebeam.")


def check_limits(options: SafetyOptions, limits: Limits) -> None:
    """Raise UserError if `options` exceed what the operator allows."""
    if options.mode not in limits.modes:
        raise UserError(f"this model has no harmfulness tag, which safety mode {options.mode} needs.")
    if options.mode == "off" and not limits.allow_off:
        raise UserError(
            f"this endpoint does not allow safety mode off; choose from {', '.join(limits.allowed_modes())}."
        )
    if options.decoding.searches and options.num_candidates > limits.max_candidates:
        raise UserError(
            f"num_candidates={options.num_candidates} exceeds this endpoint's limit of "
            f"{limits.max_candidates}."
        )
    if options.rows > limits.max_rows:
        raise UserError(
            f"beam_size x num_candidates is {options.rows}, which exceeds this endpoint's limit of "
            f"{limits.max_rows}."
        )


def check_number(options: SafetyOptions, answers: int, limits: Limits, prompts: int = 1) -> None:
    """Raise UserError if a request has more prompts, or its n `answers` take more rows, than is allowed."""
    if prompts > limits.max_prompts:
        raise UserError(f"the request has {prompts} prompts; send at most {limits.max_prompts} at once.")
    if answers < 1:
        raise UserError(f"n={answers} must be at least 1.")
    if max(options.rows * options.num_searches(answers), answers) > limits.max_rows:
        raise UserError(
            f"n={answers} answers take more than this endpoint's limit of {limits.max_rows} rows."
        )
