"""Grow trees of continuations in vLLM's scheduler, one computed token per row (vLLM 0.29).

A request for which `open_tree` returns a tree is not run itself. The scheduler makes a row of each branch
that the tree wants to evaluate (vllm_rows.py), advances the tree when all of them have an output, and sends
their log-probabilities as the tokens of the request.

vLLM's prefix cache shares whole blocks only, so a row would compute the tokens of its last block again, up to
31 on a CPU. Here a finished row keeps its blocks until its children have started. A child takes them as a
prefix cache hit that ends inside a block, which vLLM's own copy-on-write of partial hits then copies: a row
computes one token. Held blocks are given up if memory is needed; rows then use the prefix cache as other
requests do.

On a CPU vLLM has one batch in flight, so that scheduler and worker wait for each other. With two or more
trees there are two batches here, each with the rows of half of them.

vLLM accepts a scheduler class but declares its interface private. This one overrides `add_request`,
`finish_requests`, `schedule`, `update_from_output`, `reset_prefix_cache`, `get_num_unfinished_requests`,
`has_requests`, `_enqueue_waiting_request`, `_get_local_prefix_cache_hit`, `_free_request_blocks`,
`_update_after_schedule`, `_update_request_with_output` and `kv_cache_manager.allocate_slots`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import Request, RequestStatus

from safety_ray.compat.versions import ENGINE_TESTED, check_versions
from safety_ray.compat.vllm_limits import reason_against_holding, reason_against_trees
from safety_ray.compat.vllm_rows import Row, RunningTree, Tree, failed_output

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput

logger = logging.getLogger(__name__)


class TreeScheduler(AsyncScheduler):
    """vLLM's asynchronous scheduler with trees; a subclass says which requests are trees."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_versions("vllm", tested=ENGINE_TESTED)
        super().__init__(*args, **kwargs)
        self._trees: dict[str, RunningTree] = {}
        self._ready: list[RunningTree] = []  # whose rows have not been added yet
        self._rows: dict[str, Row] = {}  # added, without output
        self._failed: list[tuple[Request, str]] = []  # with the reason
        self._holders: dict[Row, None] = {}  # finished rows with blocks, in the order in which they ended
        self._rows_first = False  # before the requests that wait
        self._num_in_flight = 0  # batches
        self._scheduled = self._sleeps_next = False  # see has_requests
        self._refusal = reason_against_trees(self)
        if self._refusal:
            logger.warning(self._refusal)
        self._asynchronous = self.scheduler_config.async_scheduling
        self._two_batches = (
            not (self._asynchronous or self._refusal)
            and self.parallel_config.distributed_executor_backend == "mp"
            and self.parallel_config.pipeline_parallel_size == 1
        )
        if self._two_batches:  # the engine core reads the length of its queue after it has made the scheduler
            self.scheduler_config.async_scheduling = True
        reason = reason_against_holding(self)
        self._holds_blocks = not reason
        if reason and not self._refusal:
            logger.warning("rows of searches compute the tokens of their last block again: %s", reason)
        allocate_slots = self.kv_cache_manager.allocate_slots

        def allocate_slots_or_release(request: Request, *args: Any, **kwargs: Any) -> KVCacheBlocks | None:
            if isinstance(request, Row) and request.parent is not None and request.parent.blocks is not None:
                kwargs["full_sequence_must_fit"] = False  # its one new token is the end of the sequence
            while (blocks := allocate_slots(request, *args, **kwargs)) is None and self._holders:
                self._release(next(reversed(self._holders)))
            return blocks

        self.kv_cache_manager.allocate_slots = allocate_slots_or_release  # type: ignore[method-assign]

    def open_tree(self, request: Request) -> Tree | None:
        """Return the tree that `request` starts, or None for other requests.

        An exception ends the request, with its message as the reason.
        """
        raise NotImplementedError

    def add_request(self, request: Request) -> None:
        try:  # an exception here would end the engine with all its requests
            tree = self.open_tree(request)
            if tree is not None and self._refusal:
                raise ValueError(self._refusal)
            running = RunningTree(request, tree) if tree is not None else None
        except Exception as error:
            self._failed.append((request, str(error)))
            return
        if running is None:
            super().add_request(request)
            return
        self._trees[request.request_id] = running
        self._ready.append(running)

    def _add_rows(self) -> None:
        """Add the rows of the trees that are ready; with two batches, of at most half of all trees."""
        number = -(-len(self._trees) // 2) if self._two_batches else len(self._trees)
        added, self._ready = self._ready[:number], self._ready[number:]
        # A tree that runs waits behind no new request. But if the rows of all trees filled each batch, new
        # requests would wait until the trees have ended, so then all wait in one queue.
        self._rows_first = sum(len(tree.rows) for tree in self._trees.values()) < self.max_num_running_reqs
        for running in added:
            for row in reversed(running.rows) if self._rows_first else running.rows:
                self._rows[row.request_id] = row
                super().add_request(row)

    def _enqueue_waiting_request(self, request: Request) -> None:
        if self._rows_first and isinstance(request, Row) and request.parent is not None:
            self.waiting.prepend_request(request)
        else:
            super()._enqueue_waiting_request(request)

    def get_num_unfinished_requests(self) -> int:
        if self.pause_state == PauseState.PAUSED_ALL:
            return 0
        number: int = super().get_num_unfinished_requests()
        return number + len(self._ready) + len(self._failed)

    def has_requests(self) -> bool:
        """Return whether there is something to schedule; a second batch is for rows only.

        With two batches, the engine core makes a batch in one step and takes its output in the next one.
        After a step that made no batch it sleeps for a millisecond if there are requests, to let other
        threads work. This would be a fifth of the time of a small model's token, so that call returns False.
        """
        sleeps, self._sleeps_next, self._scheduled = self._sleeps_next, False, False
        if self._two_batches and (sleeps or (self._num_in_flight and not self._ready)):
            return False
        return bool(super().has_requests())

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        # A worker without asynchronous scheduling cannot take a token that is still in flight as its input.
        parent = AsyncScheduler if self._asynchronous else Scheduler
        parent._update_after_schedule(self, scheduler_output)

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        if isinstance(request, Row):  # it ends with its first token, which belongs to no text
            request.status = RequestStatus.FINISHED_LENGTH_CAPPED
            return new_token_ids, True
        parent = AsyncScheduler if self._asynchronous else Scheduler
        result: tuple[list[int], bool] = parent._update_request_with_output(
            self, request, new_token_ids, is_stale
        )
        return result

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        self._add_rows()
        self._scheduled = True
        output = super().schedule(throttle_prefills)
        self._num_in_flight += bool(output.total_num_scheduled_tokens)
        for new in output.scheduled_new_reqs:
            row = self._rows.get(new.req_id)
            if row is not None and row.parent is not None:
                parent, row.parent = row.parent, None
                parent.num_waiting_children -= 1
                if not parent.num_waiting_children:
                    self._release(parent)
        return output

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        parent = request.parent if isinstance(request, Row) else None
        if parent is None or parent.blocks is None:
            hit: tuple[KVCacheBlocks, int, int, bool] = super()._get_local_prefix_cache_hit(request)
            return hit
        blocks = self.kv_cache_manager.create_kv_cache_blocks((parent.blocks,))
        return blocks, parent.num_prompt_tokens, 0, False

    def _free_request_blocks(self, request: Request) -> None:
        if not (
            self._holds_blocks
            and isinstance(request, Row)
            and request.status == RequestStatus.FINISHED_LENGTH_CAPPED
        ):
            super()._free_request_blocks(request)
            return
        blocks = self.kv_cache_manager.pop_blocks_for_free(request)
        if blocks:
            request.blocks = blocks
            self._holders[request] = None

    def _release(self, row: Row) -> None:
        """Give up the blocks of a finished row, if it has any."""
        if row.blocks is not None:
            del self._holders[row]
            blocks, row.blocks = row.blocks, None
            self.kv_cache_manager.block_pool.free_blocks(reversed(blocks))

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        self._num_in_flight -= bool(scheduler_output.total_num_scheduled_tokens)
        self._sleeps_next = not self._scheduled
        batches: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        if not (self._trees or self._failed):
            return batches
        complete: list[RunningTree] = []
        for batch in batches.values():
            others = []
            for output in batch.outputs:
                row = self._rows.pop(output.request_id, None)
                if row is None:
                    others.append(output)
                    continue
                row.output, running = output, row.running_tree
                running.num_missing -= 1
                if not running.num_missing:
                    complete.append(running)
            batch.outputs = others
        failed, self._failed = self._failed, []
        outputs = [(request, failed_output(request, reason)) for request, reason in failed]
        outputs += [(running.request, self._advance(running)) for running in complete]
        for request, output in outputs:
            batches.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(output)
        return batches

    def _advance(self, running: RunningTree) -> EngineCoreOutput:
        """Grow a tree whose rows have all ended; return what its request receives."""
        try:  # an exception ends this tree, not the engine
            previous = running.advance()
        except Exception as error:
            logger.exception("search %s failed", running.request.request_id)
            self._end(running, RequestStatus.FINISHED_ERROR)
            return failed_output(running.request, f"{type(error).__name__}: {error}")
        for row in previous:
            if not row.num_waiting_children:
                self._release(row)
        if running.rows:
            self._ready.append(running)
        else:
            self._end(running, RequestStatus.FINISHED_STOPPED)
        return running.output()

    def _end(self, running: RunningTree, status: RequestStatus) -> None:
        """Forget a tree, with its rows and their blocks."""
        del self._trees[running.request.request_id]
        self._ready = [other for other in self._ready if other is not running]
        running.request.status = status
        ids = [row.request_id for row in running.rows if self._rows.pop(row.request_id, None)]
        parents = [row.parent for row in running.rows if row.parent is not None]
        super().finish_requests(ids, RequestStatus.FINISHED_ABORTED)
        for row in (*running.rows, *parents):
            self._release(row)

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        """Also end trees; the returned requests contain no rows."""
        if request_ids is not None:
            request_ids = {request_ids} if isinstance(request_ids, str) else set(request_ids)
        ended = []
        for name, running in list(self._trees.items()):
            if request_ids is None or name in request_ids:
                self._end(running, finished_status)
                ended.append(running.request)
        for failed in list(self._failed):
            if request_ids is None or failed[0].request_id in request_ids:
                self._failed.remove(failed)
                ended.append(failed[0])
        others: list[Request] = super().finish_requests(request_ids, finished_status)
        return others + ended

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        for row in list(self._holders):
            self._release(row)
        return bool(super().reset_prefix_cache(reset_running_requests, reset_connector))
