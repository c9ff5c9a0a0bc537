"""Rows: the requests with which vLLM's scheduler evaluates a tree of continuations of one prompt (vLLM 0.29).

A search grows such a tree. Each branch to evaluate is one row: a request for one token, created in the engine
core itself. It inherits what it has in common with its parent, the row of the same text without the last
token: the hashes of its blocks and, in vllm_scheduler.py, the blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request


class Branch(NamedTuple):
    """One branch to evaluate: its tokens after the prompt, and its parent's index in the previous step."""

    token_ids: tuple[int, ...]
    parent: int | None = None  # None: the prompt itself


class Tree(Protocol):
    """A growing tree of continuations; the same outputs of the model must give the same tree."""

    def branches(self) -> list[Branch]:
        """Return the branches to evaluate next; none if the tree is complete."""
        ...

    def advance(self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> None:
        """Accept the log-probabilities after each branch: of the sampled token, then of the most likely."""
        ...


class Row(Request):
    """A request for the log-probabilities after one branch."""

    def __init__(self, running: RunningTree, branch: Branch, index: int) -> None:
        request, parent = running.request, None if branch.parent is None else running.rows[branch.parent]
        super().__init__(
            request_id=f"{request.request_id}/{running.step}/{index}",
            prompt_token_ids=[*(request.prompt_token_ids or ()), *branch.token_ids],
            sampling_params=running.row_params,
            pooling_params=None,
            client_index=request.client_index,
            arrival_time=request.arrival_time,
            lora_request=request.lora_request,
            cache_salt=request.cache_salt,
            priority=request.priority,
        )
        self.running_tree = running
        self.parent: Row | None = parent
        self.num_waiting_children = 0
        self.blocks: list[Any] | None = None  # its KV blocks, held for its children
        self.output: EngineCoreOutput | None = None
        if parent is not None:
            self.prefill_stats = None  # the request reports those of its first row
        self.block_hashes: list[Any] = [*(request if parent is None else parent).block_hashes]
        self._block_hasher = request._block_hasher
        self.update_block_hashes()


class RunningTree:
    """A tree in the engine core, with the request that started it and the rows of its current step."""

    def __init__(self, request: Request, tree: Tree) -> None:
        params = request.sampling_params
        assert params is not None
        assert params.logprobs is not None
        self.request, self.tree, self.step = request, tree, 0
        self.row_params = row_params(params)
        self._width = params.logprobs + 1  # a batch's table is as wide as its widest request needs
        self._table: LogprobsLists | None = None  # the outputs of the last step
        self._first: EngineCoreOutput | None = None  # has the statistics of the prompt
        self.rows: list[Row] = []
        self.rows = self._new_rows()
        self.num_missing = len(self.rows)  # rows without output

    def _new_rows(self) -> list[Row]:
        branches = self.tree.branches()
        return [Row(self, branch, i) for i, branch in enumerate(branches)]

    def advance(self) -> list[Row]:
        """Grow the tree by the outputs of its rows, make the next rows, and return the previous ones."""
        outputs = [row.output for row in self.rows]
        if None in outputs or any(output.new_logprobs is None for output in outputs if output):
            raise RuntimeError("the engine ended a row without log-probabilities.")
        tables = [output.new_logprobs for output in outputs if output and output.new_logprobs]
        token_ids = np.concatenate([table.logprob_token_ids[:1, : self._width] for table in tables])
        log_probs = np.concatenate([table.logprobs[:1, : self._width] for table in tables])
        ranks = np.concatenate([table.sampled_token_ranks[:1] for table in tables])
        self._table = LogprobsLists(token_ids, log_probs, ranks)
        if self.step == 0:
            self._first = outputs[0]
        self.tree.advance(token_ids.tolist(), log_probs.tolist())
        self.step += 1
        previous, self.rows = self.rows, self._new_rows()
        self.num_missing = len(self.rows)
        for row in self.rows:
            assert row.parent is not None
            row.parent.num_waiting_children += 1
        return previous

    def output(self) -> EngineCoreOutput:
        """Return what the frontend receives after a step: one token per row, in order."""
        assert self._table is not None
        first, self._first = self._first, None
        return EngineCoreOutput(
            request_id=self.request.request_id,
            new_token_ids=self._table.logprob_token_ids[:, 0].tolist(),
            new_logprobs=self._table,
            finish_reason=None if self.rows else FinishReason.STOP,
            events=first.events if first else None,
            prefill_stats=first.prefill_stats if first else None,
            trace_headers=self.request.trace_headers,
        )


def row_params(params: SamplingParams) -> SamplingParams:
    """Return the parameters of a tree's rows: those of its request, for one token."""
    row = copy.copy(params)
    row.max_tokens = 1
    return row


def failed_output(request: Request, reason: str) -> EngineCoreOutput:
    """Return the last output of a request that has failed; its `stop_reason` says why."""
    return EngineCoreOutput(
        request_id=request.request_id,
        new_token_ids=[],
        finish_reason=FinishReason.ERROR,
        stop_reason=reason,
        trace_headers=request.trace_headers,
    )
