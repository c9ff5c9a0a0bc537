"""The rows of a search on a transformers model as a tree of tokens, whose keys and values are never copied.

Each search is one row of the model's batch, and its candidates are the queries of this row. Keys and values
lie in columns: those of the prompt once, followed by a pool with a column per generated token. The mask of a
query shows its ancestors only. A column that is no ancestor of a candidate any more is used again, so the
pool stays about as long as the generated text.

Shapes: B searches, Q queries of a search, C columns, W columns in use.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from safety_ray.decode.hf_rows import Children, Rows
from safety_ray.decode.tree_step import FixedStep

MODEL_TYPES = frozenset({"gpt2", "gpt_neox", "llama", "mistral", "olmo2", "qwen2", "qwen3"})
"""Model types for which a test compares a tree with rows. Others may ignore positions or masks."""
_ATTENTION = ("eager", "sdpa")  # those with a mask per query
_COLUMNS = 64  # that a pool grows by, at least
_FIXED_COLUMNS = 256  # the same with a CUDA graph, which is captured again when the pool grows


def can_be_captured(rows: Rows) -> bool:
    """Return whether a step of a tree can be a CUDA graph: positions must not depend on the longest text."""
    rope = getattr(rows.model.config, "rope_parameters", None) or {}
    return fits(rows) and not any(kind in str(rope) for kind in ("dynamic", "longrope"))


def fits(rows: Rows) -> bool:
    """Return whether the model of `rows`, which have read their prompts, can be searched as a tree."""
    config = rows.model.config
    return (
        config.model_type in MODEL_TYPES
        and config._attn_implementation in _ATTENTION
        and all(type(layer) is DynamicLayer for layer in rows.cache.layers)
    )


class Tree:
    """Growing texts in place of `Rows`, from rows that have read their prompts; see `fits`.

    With `queries`, the most rows that a search can have, steps have the same shapes until the pool grows, as
    a CUDA graph needs (tree_step.py): ended searches are computed too, and attention reads the whole pool.
    """

    def __init__(self, rows: Rows, *, queries: int = 0) -> None:
        self.model, self.logits, self.queries = rows.model, rows.logits, queries
        self.layers = [_Columns(layer.keys, layer.values) for layer in rows.cache.layers]
        self.cache = Cache(layers=self.layers)
        searches, columns = len(self.logits), self.layers[0].keys.shape[2]
        ones = torch.ones(searches, columns, dtype=torch.bool, device=self.logits.device)
        self.visible_BQC = (ones if rows.mask is None else rows.mask.bool())[:, None]
        self.positions_B = rows.last
        self._running = list(range(searches))  # searches that have not ended
        self._step: FixedStep | None = None

    def grow(self, children: Children) -> None:
        """Replace the rows of each running search by `children`; a search without children has ended."""
        children = self._with_ended(children) if self.queries else self._without_ended(children)
        sizes_B = self._tensor([len(rows) for rows in children])
        queries = self.queries or max(map(len, children))
        # A search with fewer rows repeats its first one; the logits of these rows are left out.
        padded = [[*rows, *[rows[0] if rows else (0, 0)] * (queries - len(rows))] for rows in children]
        parents_BQ, token_ids_BQ = self._tensor(padded).unbind(-1)
        self.visible_BQC = self.visible_BQC[self._search_numbers(), parents_BQ]
        runs_B = sizes_B > 0
        if self.queries:
            self.visible_BQC[:, :, 1:] &= runs_B[:, None, None]  # what an ended search computes is not used
        columns_BQ = self._place(queries)
        self.positions_B = self.positions_B + runs_B
        hidden_BQW = ~self.visible_BQC[:, :, : self.layers[0].width]
        dtype = self.model.dtype
        mask_BQW = torch.zeros_like(hidden_BQW, dtype=dtype).masked_fill(hidden_BQW, torch.finfo(dtype).min)
        arguments = [token_ids_BQ, mask_BQW, self.positions_B[:, None].expand(-1, queries), columns_BQ]
        logits_BQV = self._in_fixed_shapes(arguments) if self.queries else self._forward(*arguments)
        is_row_BQ = torch.arange(queries, device=self.model.device) < sizes_B[:, None]
        self.logits = logits_BQV[is_row_BQ]

    def _forward(
        self,
        token_ids_BQ: torch.Tensor,
        mask_BQW: torch.Tensor,
        positions_BQ: torch.Tensor,
        columns_BQ: torch.Tensor,
    ) -> torch.Tensor:
        for layer in self.layers:
            layer.searches, layer.columns = self._search_numbers(), columns_BQ
        logits: torch.Tensor = self.model(
            input_ids=token_ids_BQ,
            attention_mask=mask_BQW[:, None],
            position_ids=positions_BQ,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits

    def _in_fixed_shapes(self, arguments: list[torch.Tensor]) -> torch.Tensor:
        if self._step is None or not self._step.fits(arguments):
            self._step = None  # frees the memory of its graph before the next one is captured
            self._step = FixedStep(self._forward, arguments)
        return self._step(self._forward, arguments)

    def _place(self, queries: int) -> torch.Tensor:
        """Give each query a free column of its search, the first ones [B, Q], and show it to the query."""
        taken_BC = self.visible_BQC.any(dim=1)
        missing = int(taken_BC.sum(dim=1).max()) + queries - taken_BC.shape[1]
        if missing > 0:
            least = _FIXED_COLUMNS if self.queries else _COLUMNS
            extra = max(missing, least, taken_BC.shape[1] // 4)
            self.visible_BQC = torch.nn.functional.pad(self.visible_BQC, (0, extra))
            taken_BC = torch.nn.functional.pad(taken_BC, (0, extra))
            for layer in self.layers:
                layer.widen(extra)
        columns_BQ = taken_BC.byte().argsort(dim=1, stable=True)[:, :queries]
        self.visible_BQC = self.visible_BQC.scatter(2, columns_BQ[:, :, None], True)
        in_use = self.visible_BQC.any(dim=1).any(dim=0)
        width = len(in_use) if self.queries else int(in_use.nonzero().max()) + 1
        for layer in self.layers:
            layer.width = width
        return columns_BQ

    def _without_ended(self, children: Children) -> Children:
        """Remove the searches without children from the batch."""
        if not all(children):
            searches = self._tensor([index for index, rows in enumerate(children) if rows])
            self.visible_BQC, self.positions_B = self.visible_BQC[searches], self.positions_B[searches]
            self.cache.batch_select_indices(searches)
        return [rows for rows in children if rows]

    def _with_ended(self, children: Children) -> Children:
        """Return the children of all searches of the batch: those that have ended have none."""
        of_search = {n: rows for n, rows in zip(self._running, children, strict=True) if rows}
        self._running = list(of_search)
        return [of_search.get(n, ()) for n in range(len(self.positions_B))]

    def _search_numbers(self) -> torch.Tensor:
        return torch.arange(len(self.visible_BQC), device=self.model.device)[:, None]

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)


class _Columns(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, shape [B, heads, C, head size]; new ones are written into `columns`."""

    searches: torch.Tensor  # [B, 1]
    columns: torch.Tensor  # [B, Q]
    width: int

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def widen(self, extra: int) -> None:
        """Append `extra` free columns."""
        self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
        self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the keys and values of the queries; return all in use, without a copy."""
        self.keys[self.searches, :, self.columns] = key_states.transpose(1, 2)
        self.values[self.searches, :, self.columns] = value_states.transpose(1, 2)
        return self.keys[:, :, : self.width], self.values[:, :, : self.width]
