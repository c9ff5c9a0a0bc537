"""Mask the harmfulness tag, or end texts at it, for a whole batch of logits.

The paper reads P(tag | text) at inference and ends a text when the model would emit the tag (section 4, and
the short-circuit class of section 6). Three modes (modes.py), chosen per request:

    off    the logits stay as they are
    mask   the tag is never sampled
    stop   as mask, and the text ends when the model's own P(tag) reaches a threshold

A prompt after which P(tag) reaches a threshold of its own can be refused: the text then ends before its first
token (not in mode off). On request, P(tag) is reported per token: the probability of the tag at the position
of the token.

This file is independent of any engine: requests are numbered rows, and logits are one matrix. `slots.py` does
the same for batches whose rows change with each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safety_ray.core.errors import UserError, nearest
from safety_ray.decode.modes import PROCESSOR_MODES

MODE_ARG, THRESHOLD_ARG, PROMPT_ARG = "safety_mode", "safety_threshold", "safety_prompt_threshold"
REPORT_ARG = "safety_report"
"""Names of a request's extra arguments in the engine (`extra_args`, in OpenAI bodies `vllm_xargs`)."""

_ARGS = (MODE_ARG, THRESHOLD_ARG, PROMPT_ARG, REPORT_ARG)
LAST = -1
"""Column of the engine's log-probabilities that is appended for requests without log-probabilities."""
CERTAIN = 1e30
"""At this logit all other tokens have probability 0 at any temperature; masking them would cost more."""
_CHANGE_P_TAG = ("logit_bias", "allowed_token_ids", "bad_words", "min_tokens", "structured_outputs")


@dataclass(frozen=True, slots=True)
class TagPolicy:
    """The mode and thresholds of one request.

    Thresholds are probabilities: `threshold` has an effect in mode stop only, `prompt_threshold` in all modes
    but off; 1 refuses no prompt.
    """

    mode: str = "off"
    threshold: float = 1.0
    prompt_threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in PROCESSOR_MODES:
            raise UserError(f"unknown safety mode {self.mode!r}; choose from {', '.join(PROCESSOR_MODES)}.")
        check_threshold("threshold", self.threshold)
        check_threshold("prompt_threshold", self.prompt_threshold)

    @property
    def ends_texts(self) -> bool:
        return self.mode == "stop" or (self.mode == "mask" and self.prompt_threshold < 1)

    @property
    def log_thresholds(self) -> tuple[float, float]:
        """Values of log P(tag) that end a text before its first token, and later; infinity: never."""
        later = math.log(self.threshold) if self.mode == "stop" else math.inf
        first = math.log(self.prompt_threshold) if self.prompt_threshold < 1 else math.inf
        return (min(later, first), later) if self.mode != "off" else (math.inf, math.inf)


def check_threshold(name: str, value: Any) -> None:
    """Raise UserError if `value` is not a number above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"safety.{name} must be a number, not {value!r}.")
    if not 0 < value <= 1:
        raise UserError(f"safety.{name} must be a probability above 0 and at most 1, not {value}.")


def parse_policy(values: Mapping[str, Any] | None, default: TagPolicy) -> TagPolicy:
    """Return the policy of a request with the extra arguments `values`; `default` fills in missing ones.

    Arguments that do not begin with `safety_` are ignored. Raises UserError for an unknown name or an invalid
    value.
    """
    args = {key: value for key, value in (values or {}).items() if str(key).startswith("safety_")}
    for key in args:
        if key not in _ARGS:
            raise UserError(f"unknown safety setting '{key}'; the nearest is '{nearest(key, _ARGS)}'.")
    if not isinstance(args.get(REPORT_ARG, False), bool):
        raise UserError(f"{REPORT_ARG} must be true or false, not {args[REPORT_ARG]!r}.")
    return TagPolicy(
        args.get(MODE_ARG, default.mode),
        args.get(THRESHOLD_ARG, default.threshold),
        args.get(PROMPT_ARG, default.prompt_threshold),
    )


def report_column(values: Mapping[str, Any] | None, logprobs: int | None) -> int | None:
    """Return the column of the engine's log-probabilities for log P(tag); None: the request reports nothing.

    `values` are the request's extra arguments. A request with log-probabilities receives P(tag) of each token
    in the last of its own columns. Otherwise the column is LAST, and the engine adds the values up.
    """
    if not (values or {}).get(REPORT_ARG):
        return None
    return LAST if logprobs is None else logprobs if logprobs > 0 else None


def check_sampling(policy: TagPolicy, tag: int | None, params: Any) -> None:
    """Raise UserError if the sampling parameters `params` conflict with the policy.

    The engine applies biases, masks and grammars before a processor receives the logits, so P(tag) would no
    longer be the model's own. `params` has the fields of vLLM's SamplingParams.
    """
    if policy.ends_texts:
        for name in _CHANGE_P_TAG:
            if getattr(params, name, None):
                raise UserError(
                    f"{name} changes P(tag), which mode stop and prompt_threshold compare with a threshold; "
                    f"leave out {name}, or use mode mask."
                )
        if getattr(params, "ignore_eos", False) and not getattr(params, "stop_token_ids", None):
            raise UserError("ignore_eos does not allow mode stop to end a text; leave it out.")
    allowed = getattr(params, "allowed_token_ids", None)
    if policy.mode == "mask" and allowed and set(allowed) == {tag}:
        raise UserError("allowed_token_ids has the harmfulness tag only, which mode mask never samples.")


def end_token(tag: int, stop_ids: Iterable[int] | None, eos: int | None) -> int | None:
    """Return the token that is sampled to end a request's text, or None if no token ends it.

    This is the tag if the request stops at it, since the engine then reports the tag as the reason, which
    distinguishes this end from any other. Otherwise it is the end of text, or else a stop token.
    """
    ids = set(stop_ids or ())
    return tag if tag in ids else eos if eos is not None else min(ids, default=None)


def running_policy(params: Any, default: TagPolicy, tag: int) -> tuple[TagPolicy, int | None, int | None]:
    """Return the policy of a request that the engine runs, its `end_token`, and its column of log P(tag).

    An exception here would end the engine with all its requests. So the tag is masked for a request with
    invalid arguments, and for one whose text no token can end.
    """
    extra = params.extra_args or {}
    try:
        policy = parse_policy(extra, default)
    except UserError:
        policy = TagPolicy("mask")
    end = end_token(tag, params.stop_token_ids, params.eos_token_id)
    if policy.ends_texts and end is None:
        policy = TagPolicy("mask")
    return policy, end, report_column(extra, params.logprobs)


@dataclass(frozen=True, slots=True)
class _Row:
    mask: bool
    end: int  # token that ends the text
    log_threshold: float  # of log P(tag), at which the text ends; infinity: never
    first_log_threshold: float  # the same for the first token
    output: Sequence[int]  # generated tokens; the engine appends to this list
    column: int | None  # column of the engine's log-probabilities for log P(tag); LAST: an additional one


class TagRows:
    """The rows of a running batch that mask, stop or report, and their effect on a step's logits.

    Shapes: B rows of the batch, V tokens of the vocabulary, S rows that may stop, R rows that report.
    """

    def __init__(self, tag: int, device: torch.device | str = "cpu") -> None:
        self.tag, self.device = tag, torch.device(device)
        self.rows: dict[int, _Row] = {}
        self.flush()

    def remove(self, row: int) -> None:
        self.rows.pop(row, None)

    def add(
        self,
        row: int,
        policy: TagPolicy,
        end: int | None = None,
        *,
        output: Sequence[int] = (),
        column: int | None = None,
    ) -> None:
        """Put a request in `row`, replacing the request that was there; `end` as returned by `end_token`."""
        self.rows.pop(row, None)
        if policy.ends_texts and end is None:
            raise ValueError("a request whose text may be ended needs a token that ends it")
        first, later = policy.log_thresholds
        if policy.mode != "off" or column is not None:
            self.rows[row] = _Row(
                mask=policy.mode != "off",
                end=self.tag if end is None else end,
                log_threshold=later,
                first_log_threshold=first,
                output=output,
                column=column,
            )

    def move(self, source: int, target: int, swap: bool) -> None:
        """Move the request in row `source` to `target`; with `swap` the other one moves to `source`."""
        moved, replaced = self.rows.pop(source, None), self.rows.pop(target, None)
        if moved is not None:
            self.rows[target] = moved
        if swap and replaced is not None:
            self.rows[source] = replaced

    def flush(self) -> None:
        """Apply the changes since the last call; call it once per change of the batch."""
        rows = self.rows
        stops = {
            i: row for i, row in rows.items() if min(row.log_threshold, row.first_log_threshold) < math.inf
        }
        reported = {i: row.column for i, row in rows.items() if row.column is not None}
        self._masks = self._ids([i for i, row in rows.items() if row.mask])
        self._stops, self._ends = self._ids(list(stops)), self._ids([row.end for row in stops.values()])
        self._reported, self._columns = self._ids(list(reported)), self._ids(list(reported.values()))
        self.appends = LAST in reported.values()
        self._thresholds = torch.tensor(
            [row.first_log_threshold for row in stops.values()], dtype=torch.float32, device=self.device
        )
        self._before_first_token = [  # (index in stops, row) with a threshold for the first token only
            (index, row)
            for index, row in enumerate(stops.values())
            if row.first_log_threshold != row.log_threshold
        ]

    def _ids(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def apply(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Apply the modes of all rows to float32 logits in place, and return them.

        Nothing is copied from the device, so the host does not wait for an accelerator.
        """
        if not len(self._stops):
            if len(self._masks):
                logits_BV[self._masks, self.tag] = -math.inf
            return logits_BV
        for index, row in [entry for entry in self._before_first_token if entry[1].output]:
            self._thresholds[index] = row.log_threshold
            self._before_first_token.remove((index, row))
        stop_S = self._log_p_tag(logits_BV, self._stops) >= self._thresholds
        logits_BV[self._masks, self.tag] = -math.inf
        end_logits_S = logits_BV[self._stops, self._ends]
        logits_BV[self._stops, self._ends] = end_logits_S.masked_fill(stop_S, CERTAIN)
        return logits_BV

    def measure(self, logits_BV: torch.Tensor) -> torch.Tensor | None:
        """Return log P(tag) of the rows that report it, from unchanged logits; None if no row does."""
        return self._log_p_tag(logits_BV, self._reported) if len(self._reported) else None

    def report(
        self, log_p_tags_R: torch.Tensor, token_ids_BC: torch.Tensor, log_probs_BC: torch.Tensor
    ) -> None:
        """Write the result of `measure` into the engine's table of tokens and their log-probabilities."""
        token_ids_BC[self._reported, self._columns] = self.tag
        log_probs_BC[self._reported, self._columns] = log_p_tags_R

    def _log_p_tag(self, logits_BV: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return log P(tag) of `rows`, float32."""
        # For most of the batch, one pass over all rows is cheaper than a copy of the selected ones.
        if 2 * len(rows) > len(logits_BV):
            return log_probability(logits_BV, self.tag)[rows]
        return log_probability(logits_BV[rows], self.tag)


def log_probability(logits_BV: torch.Tensor, token: int) -> torch.Tensor:
    """Return the log-probability of one token for each row, float32.

    The loss is a single kernel, on CPUs twice as fast as a logsumexp.
    """
    targets_B = torch.full(logits_BV.shape[:1], token, device=logits_BV.device)
    return -torch.nn.functional.cross_entropy(logits_BV.float(), targets_B, reduction="none")
