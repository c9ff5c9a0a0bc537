"""What a request may ask of the endpoint: the body's field `safety`, its defaults and its limits.

{"safety": {"mode": "safebeam", "beam_size": 4, "num_candidates": 4}}

off       nothing is done
mask      the tag is never sampled
stop      as mask, and the text ends where P(tag) reaches `threshold`
safebeam  Safe Beam Search (paper, section 4); temperature and top_p have no meaning in it
sample    sampling with a look-ahead, top-k = `num_candidates` (safety_ray/decode/safesample.py)
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from safety_ray.core.errors import UserError, nearest
from safety_ray.decode.processor import MODES as ENGINE_MODES
from safety_ray.decode.processor import Safety, check_share
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings

Mode = Literal["off", "mask", "stop", "safebeam", "sample"]
MODES: tuple[str, ...] = get_args(Mode)
PREFIX = "safety_"  # of the same names among vLLM's extra arguments

_SEARCH = ("num_candidates", "drop_share", "stride")
_OF_MODE = {  # which settings mean something in which mode
    "off": ("explain",),
    "mask": ("prompt_threshold", "explain"),
    "stop": ("threshold", "prompt_threshold", "explain"),
    "safebeam": ("beam_size", "length_penalty", *_SEARCH, "prompt_threshold", "explain"),
    "sample": (*_SEARCH, "prompt_threshold", "explain"),
}
# What would change the probabilities that a search reads; (name, the value that does nothing).
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
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request's `safety`, whole; the endpoint's defaults have the same form."""

    mode: str = "mask"
    threshold: float = 0.03
    prompt_threshold: float = 1.0
    beam_size: int = 4
    num_candidates: int = 4
    drop_share: float = 0.5
    stride: int = 1
    length_penalty: float = 0.0
    explain: bool = False  # tell what was dropped

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"unknown safety mode {self.mode!r}: use one of {', '.join(MODES)}.")
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if kind == "int" and (isinstance(value, bool) or not isinstance(value, int)):
                raise UserError(f"safety.{field.name} must be a whole number, not {value!r}.")
            if kind == "float" and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise UserError(f"the safety {field.name} must be a number, not {value!r}.")
            if kind == "bool" and not isinstance(value, bool):
                raise UserError(f"safety.{field.name} must be true or false, not {value!r}.")
        check_share("threshold", self.threshold)
        check_share("prompt_threshold", self.prompt_threshold)
        # The search's own checks; no tag and no length are known here.
        SearchSettings(tag_id=-1, max_new_tokens=1, **self._search_settings())

    @property
    def searches(self) -> bool:
        return self.mode not in ENGINE_MODES

    @property
    def rows(self) -> int:
        """Rows of the engine's batch that an answer takes at most."""
        if not self.searches:
            return 1
        return self.num_candidates * (self.beam_size if self.mode == "safebeam" else 1)

    def engine(self) -> Safety:
        """What the engine's processor is told."""
        return Safety(self.mode, self.threshold, self.prompt_threshold)

    def search(self, params: Any, tag_id: int, max_new_tokens: int, index: int) -> Search:
        """The search for the `index`-th answer of a request with vLLM's sampling parameters `params`."""
        ends = frozenset(params.stop_token_ids or ())
        if not params.ignore_eos and params.eos_token_id is not None:
            ends |= {params.eos_token_id}
        common = {
            "tag_id": tag_id,
            "eos_ids": ends,
            "max_new_tokens": max_new_tokens,
            **self._search_settings(),
        }
        if self.mode == "safebeam":
            return Search(SearchSettings(**common))
        common |= {"beam_size": 1, "length_penalty": 0.0}
        seed = secrets.randbits(31) if params.seed is None else params.seed + index
        return SampleSearch(
            SampleSettings(**common, temperature=params.temperature, top_p=params.top_p, seed=seed)
        )

    def _search_settings(self) -> dict[str, Any]:
        names = ("beam_size", "num_candidates", "drop_share", "stride", "length_penalty")
        return {name: getattr(self, name) for name in names}

    def check_sampling(self, params: Any) -> None:
        """UserError where sampling parameters have no meaning in a search."""
        for name, neutral in _NOT_IN_SEARCH:
            value = getattr(params, name, neutral)
            if value != neutral and value:
                raise UserError(f"safety mode {self.mode} has no use for {name}: leave it out.")
        if self.mode == "sample" and params.top_k > 0:
            raise UserError("in safety mode sample num_candidates is the top_k: leave top_k out.")
        if self.mode == "safebeam" and params.n > self.beam_size:
            raise UserError(f"n={params.n} answers need as many beams: beam_size is {self.beam_size}.")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows."""

    allow_off: bool = True
    max_rows: int = 32  # beam_size x num_candidates, and answers of one request
    max_candidates: int = 19
    modes: tuple[str, ...] = MODES  # without a tag there is off alone


def asked(values: Mapping[str, Any] | None, default: Asked, limits: Limits) -> Asked:
    """The `Asked` of a request's field `safety`. Raises UserError with one sentence for what does not fit."""
    if values is not None and not isinstance(values, Mapping):
        raise UserError('\'safety\' must be an object, for example {"mode": "stop", "threshold": 0.05}.')
    own = {key: value for key, value in (values or {}).items() if value is not None}
    names = [field.name for field in fields(Asked)]
    for key in own:
        if key not in names:
            raise UserError(f"unknown safety setting '{key}'; the nearest is '{nearest(str(key), names)}'.")
    found = replace(default, **own)
    for key in own:
        if key != "mode" and key not in _OF_MODE[found.mode]:
            modes = [mode for mode, settings in _OF_MODE.items() if key in settings]
            raise UserError(f"safety.{key} belongs to mode {' or '.join(modes)}, not to {found.mode}.")
    check_limits(found, limits)
    return found


def check_limits(found: Asked, limits: Limits) -> None:
    """UserError where `found` is more than the operator allows."""
    if found.mode not in limits.modes:
        raise UserError(f"this model has no harmfulness tag, which safety mode {found.mode} needs.")
    if found.mode == "off" and not limits.allow_off:
        raise UserError("this endpoint does not allow safety mode off: use mask, stop, safebeam or sample.")
    if found.searches and found.num_candidates > limits.max_candidates:
        raise UserError(
            f"num_candidates={found.num_candidates} is more than this endpoint's {limits.max_candidates}."
        )
    if found.rows > limits.max_rows:
        raise UserError(
            f"beam_size x num_candidates is {found.rows}, and this endpoint allows {limits.max_rows} at most."
        )
