"""Keeping the harmfulness tag out of sampled text, for a whole batch at once.

The paper reads P(tag | text) at inference and short-circuits where the model would emit the tag
(section 4 and the over-refusal classes of section 6). Three modes, chosen per request:

    off    nothing is done
    mask   the tag is never sampled
    stop   as mask, and the text ends as soon as the model's own P(tag) reaches a threshold

This file knows nothing of an engine: requests stand in numbered rows, logits are one matrix.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from safety_ray.errors import UserError

Mode = Literal["off", "mask", "stop"]
MODES: tuple[str, ...] = get_args(Mode)
MODE_ARG, THRESHOLD_ARG = "safety_mode", "safety_threshold"
"""Names of a request's extra arguments in the engine (`extra_args`, in OpenAI bodies `vllm_xargs`)."""

_DISTORTING = ("logit_bias", "allowed_token_ids", "bad_words", "min_tokens", "structured_outputs")


@dataclass(frozen=True, slots=True)
class Safety:
    """What one request asks for; `threshold` is a probability and matters in mode stop alone."""

    mode: str = "off"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"unknown safety mode {self.mode!r}: use one of {', '.join(MODES)}.")
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)):
            raise UserError(f"the safety threshold must be a number, not {self.threshold!r}.")
        if not 0 < self.threshold <= 1:
            raise UserError(
                f"the safety threshold is a probability: above 0 and at most 1, not {self.threshold}."
            )


def requested(values: Mapping[str, Any] | None, default: Safety) -> Safety:
    """The `Safety` of a request with the extra arguments `values`; what they leave out is `default`'s."""
    own = {key: value for key, value in (values or {}).items() if str(key).startswith("safety_")}
    for key in own:
        if key not in (MODE_ARG, THRESHOLD_ARG):
            near = difflib.get_close_matches(key, (MODE_ARG, THRESHOLD_ARG), n=1, cutoff=0.0)[0]
            raise UserError(f"unknown safety setting '{key}'; the nearest is '{near}'.")
    return Safety(own.get(MODE_ARG, default.mode), own.get(THRESHOLD_ARG, default.threshold))


def check_sampling(safety: Safety, tag: int | None, params: Any) -> None:
    """UserError where the sampling parameters `params` would blind or jam the processor.

    The engine applies biases, masks and grammars before a processor sees the logits, so P(tag) would
    no longer be the model's own. `params` has the fields of vLLM's SamplingParams.
    """
    if safety.mode == "stop":
        for name in _DISTORTING:
            if getattr(params, name, None):
                raise UserError(
                    f"safety mode stop reads the model's own P(tag), which {name} changes: "
                    f"leave {name} out, or use mode mask."
                )
        if getattr(params, "ignore_eos", False) and not getattr(params, "stop_token_ids", None):
            raise UserError("safety mode stop ends texts, which ignore_eos forbids: leave it out.")
    allowed = getattr(params, "allowed_token_ids", None)
    if safety.mode == "mask" and allowed and set(allowed) == {tag}:
        raise UserError("allowed_token_ids holds the harmfulness tag alone, and safety mode mask forbids it.")


def ending(tag: int, stop_ids: Iterable[int] | None, eos: int | None) -> int | None:
    """The token whose sampling ends a request in mode stop; None where nothing would end it.

    The tag itself where the request stops at it: the engine then reports it as the reason, which
    no other ending can be mistaken for. Else the end of text.
    """
    ids = set(stop_ids or ())
    return tag if tag in ids else eos if eos is not None else min(ids, default=None)


@dataclass(frozen=True, slots=True)
class _Row:
    log_threshold: float | None  # None: mask alone
    end: int


class TagRows:
    """The rows of a running batch that mask or stop, and their effect on a step's logits."""

    def __init__(self, tag: int, device: torch.device | str = "cpu") -> None:
        self.tag, self.device = tag, torch.device(device)
        self.rows: dict[int, _Row] = {}
        self._build()

    def remove(self, row: int) -> None:
        self.rows.pop(row, None)

    def add(self, row: int, safety: Safety, end: int | None = None) -> None:
        """Put a request in `row`, in the place of whatever stood there; `end` as of `ending`."""
        self.rows.pop(row, None)
        if safety.mode == "mask":
            self.rows[row] = _Row(None, self.tag)
        elif safety.mode == "stop":
            if end is None:
                raise ValueError("a request in mode stop needs a token that ends it")
            self.rows[row] = _Row(math.log(safety.threshold), end)

    def move(self, source: int, target: int, swap: bool) -> None:
        """`source` takes the place of `target`; with `swap` they change places, else target is gone."""
        moved, met = self.rows.pop(source, None), self.rows.pop(target, None)
        if moved is not None:
            self.rows[target] = moved
        if swap and met is not None:
            self.rows[source] = met

    def settle(self) -> None:
        """Make the changes since the last call count; once per change of the batch."""
        self._build()

    def _build(self) -> None:
        stops = {row: state for row, state in self.rows.items() if state.log_threshold is not None}
        self._all = self._ids(list(self.rows))
        self._stops = self._ids(list(stops))
        self._ends = self._ids([state.end for state in stops.values()])
        self._thresholds = torch.tensor(
            [state.log_threshold for state in stops.values()], dtype=torch.float32, device=self.device
        )

    def _ids(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def apply(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The logits after the rows' modes, changed in place; float32, one row per request.

        Nothing is read back from the device, so an accelerator is never waited for.
        """
        if not self.rows:
            return logits_BV
        if not len(self._stops):
            logits_BV[self._all, self.tag] = -math.inf
            return logits_BV
        stop_SV = logits_BV[self._stops]
        log_p_S = stop_SV[:, self.tag] - stop_SV.logsumexp(dim=-1)
        hit_S = log_p_S >= self._thresholds
        hit_B = torch.zeros(len(logits_BV), dtype=torch.bool, device=logits_BV.device)
        hit_B[self._stops] = hit_S
        logits_BV[self._all, self.tag] = -math.inf
        logits_BV.masked_fill_(hit_B[:, None], -math.inf)
        kept_S = logits_BV[self._stops, self._ends]
        logits_BV[self._stops, self._ends] = torch.where(hit_S, torch.zeros_like(kept_S), kept_S)
        return logits_BV
