"""Keeping the harmfulness tag out of sampled text, for a whole batch at once.

The paper reads P(tag | text) at inference and short-circuits where the model would emit the tag
(section 4 and the over-refusal classes of section 6). Three modes, chosen per request:

    off    nothing is done
    mask   the tag is never sampled
    stop   as mask, and the text ends as soon as the model's own P(tag) reaches a threshold

A prompt after which P(tag) already reaches a threshold of its own can be refused: the text then
ends before its first token (not in mode off). Where it is asked for, each token's P(tag) is
reported: how likely the model found the tag in the place where the token stands.

This file knows nothing of an engine: requests stand in numbered rows, logits are one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from safety_ray.core.errors import UserError, nearest

Mode = Literal["off", "mask", "stop"]
MODES: tuple[str, ...] = get_args(Mode)
MODE_ARG, THRESHOLD_ARG, PROMPT_ARG = "safety_mode", "safety_threshold", "safety_prompt_threshold"
REPORT_ARG = "safety_report"
"""Names of a request's extra arguments in the engine (`extra_args`, in OpenAI bodies `vllm_xargs`)."""

_ARGS = (MODE_ARG, THRESHOLD_ARG, PROMPT_ARG, REPORT_ARG)
_CERTAIN = 1e30
_DISTORTING = ("logit_bias", "allowed_token_ids", "bad_words", "min_tokens", "structured_outputs")


@dataclass(frozen=True, slots=True)
class Safety:
    """What one request asks for; thresholds are probabilities.

    `threshold` matters in mode stop alone, `prompt_threshold` in all but off; 1 refuses no prompt.
    """

    mode: str = "off"
    threshold: float = 1.0
    prompt_threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"unknown safety mode {self.mode!r}: use one of {', '.join(MODES)}.")
        check_share("threshold", self.threshold)
        check_share("prompt_threshold", self.prompt_threshold)

    @property
    def ends_texts(self) -> bool:
        return self.mode == "stop" or (self.mode == "mask" and self.prompt_threshold < 1)


def check_share(name: str, value: Any) -> None:
    """UserError where a threshold is no probability above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"the safety {name} must be a number, not {value!r}.")
    if not 0 < value <= 1:
        raise UserError(f"the safety {name} is a probability: above 0 and at most 1, not {value}.")


def requested(values: Mapping[str, Any] | None, default: Safety) -> Safety:
    """The `Safety` of a request with the extra arguments `values`; what they leave out is `default`'s."""
    own = {key: value for key, value in (values or {}).items() if str(key).startswith("safety_")}
    for key in own:
        if key not in _ARGS:
            raise UserError(f"unknown safety setting '{key}'; the nearest is '{nearest(key, _ARGS)}'.")
    return Safety(
        own.get(MODE_ARG, default.mode),
        own.get(THRESHOLD_ARG, default.threshold),
        own.get(PROMPT_ARG, default.prompt_threshold),
    )


def check_sampling(safety: Safety, tag: int | None, params: Any) -> None:
    """UserError where the sampling parameters `params` would blind or jam the processor.

    The engine applies biases, masks and grammars before a processor sees the logits, so P(tag) would
    no longer be the model's own. `params` has the fields of vLLM's SamplingParams.
    """
    if safety.ends_texts:
        for name in _DISTORTING:
            if getattr(params, name, None):
                raise UserError(
                    f"safety mode stop, and a threshold for prompts, read the model's own P(tag), which "
                    f"{name} changes: leave {name} out, or use mode mask."
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
    mask: bool
    end: int  # what is sampled where the text ends
    log_threshold: float  # of P(tag), where the text ends; infinity: nowhere
    first_log_threshold: float  # the same before the first token
    output: Sequence[int]  # the tokens so far, kept up to date by the engine
    column: int | None  # where in the engine's table of log-probabilities P(tag) is reported


class TagRows:
    """The rows of a running batch that mask, stop or report, and their effect on a step's logits."""

    def __init__(self, tag: int, device: torch.device | str = "cpu") -> None:
        self.tag, self.device = tag, torch.device(device)
        self.rows: dict[int, _Row] = {}
        self.settle()

    def remove(self, row: int) -> None:
        self.rows.pop(row, None)

    def add(
        self,
        row: int,
        safety: Safety,
        end: int | None = None,
        *,
        output: Sequence[int] = (),
        column: int | None = None,
    ) -> None:
        """Put a request in `row`, in the place of whatever stood there; `end` as of `ending`."""
        self.rows.pop(row, None)
        if safety.ends_texts and end is None:
            raise ValueError("a request whose text may be ended needs a token that ends it")
        after = math.log(safety.threshold) if safety.mode == "stop" else math.inf
        first = math.log(safety.prompt_threshold) if safety.prompt_threshold < 1 else math.inf
        if safety.mode != "off" or safety.ends_texts or column is not None:
            self.rows[row] = _Row(
                safety.mode != "off",
                self.tag if end is None else end,
                after,
                min(after, first),
                output,
                column,
            )

    def move(self, source: int, target: int, swap: bool) -> None:
        """`source` takes the place of `target`; with `swap` they change places, else target is gone."""
        moved, met = self.rows.pop(source, None), self.rows.pop(target, None)
        if moved is not None:
            self.rows[target] = moved
        if swap and met is not None:
            self.rows[source] = met

    def settle(self) -> None:
        """Make the changes since the last call count; once per change of the batch."""
        rows = self.rows
        stops = {
            i: row for i, row in rows.items() if min(row.log_threshold, row.first_log_threshold) < math.inf
        }
        reported = {i: row.column for i, row in rows.items() if row.column is not None}
        self._masks = self._ids([i for i, row in rows.items() if row.mask])
        self._stops, self._ends = self._ids(list(stops)), self._ids([row.end for row in stops.values()])
        self._reported, self._columns = self._ids(list(reported)), self._ids(list(reported.values()))
        self._thresholds = torch.tensor(
            [row.first_log_threshold for row in stops.values()], dtype=torch.float32, device=self.device
        )
        self._unbegun = [  # rows that still have the threshold of their prompt
            (place, row)
            for place, row in enumerate(stops.values())
            if row.first_log_threshold != row.log_threshold
        ]

    def _ids(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def apply(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The logits after the rows' modes, changed in place; float32, one row per request.

        Nothing is read back from the device, so an accelerator is never waited for.
        """
        if not len(self._stops):
            if len(self._masks):
                logits_BV[self._masks, self.tag] = -math.inf
            return logits_BV
        for place, row in [each for each in self._unbegun if each[1].output]:
            self._thresholds[place] = row.log_threshold
            self._unbegun.remove((place, row))
        hit_S = self._log_p(logits_BV, self._stops) >= self._thresholds
        logits_BV[self._masks, self.tag] = -math.inf
        kept_S = logits_BV[self._stops, self._ends]
        # So likely that the rest has probability 0 at any temperature; cheaper than to mask the rest.
        logits_BV[self._stops, self._ends] = kept_S.masked_fill(hit_S, _CERTAIN)
        return logits_BV

    def measure(self, logits_BV: torch.Tensor) -> torch.Tensor | None:
        """log P(tag) of the rows that report it, from logits that nothing has changed; None: no row does."""
        return self._log_p(logits_BV, self._reported) if len(self._reported) else None

    def report(self, log_p_R: torch.Tensor, token_ids_BC: torch.Tensor, log_probs_BC: torch.Tensor) -> None:
        """Write what `measure` found into the engine's table of tokens and their log-probabilities."""
        token_ids_BC[self._reported, self._columns] = self.tag
        log_probs_BC[self._reported, self._columns] = log_p_R

    def _log_p(self, logits_BV: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """log P(tag) of `rows`, float32."""
        # Most often all rows are meant: then no copy is made of them.
        total_B = logits_BV.float().logsumexp(dim=-1) if 2 * len(rows) > len(logits_BV) else None
        total_R = logits_BV[rows].float().logsumexp(dim=-1) if total_B is None else total_B[rows]
        return logits_BV[rows, self.tag].float() - total_R
