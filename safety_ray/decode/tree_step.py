"""The forward pass of a tree of tokens as a CUDA graph: one launch instead of hundreds of kernels.

A graph repeats its kernels on the same memory. The inputs therefore have fixed tensors, which each step
fills, and the pass is captured again when their shapes or the keys and values of the tree have changed. On a
CPU the same tensors are used without a graph, so that tests need no GPU.

Shapes: B searches, Q queries of a search, C columns, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP = 2  # passes before the capture, in which libraries choose and initialize their kernels


class FixedStep:
    """Calls `function` on fixed tensors with the values of its arguments; captured on a GPU."""

    def __init__(self, function: Callable[..., Tensor], arguments: list[Tensor]) -> None:
        self._function = function
        self._arguments = [argument.clone() for argument in arguments]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None
        if arguments[0].is_cuda:
            self._capture()

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Return the output; a graph writes the next one to the same memory."""
        for fixed, argument in zip(self._arguments, arguments, strict=True):
            fixed.copy_(argument)
        if self._graph is None:
            return self._function(*self._arguments)
        self._graph.replay()
        assert self._output is not None
        return self._output

    def fits(self, arguments: list[Tensor]) -> bool:
        """Return whether `arguments` have the shapes of the fixed tensors."""
        return [a.shape for a in arguments] == [a.shape for a in self._arguments]

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._function(*self._arguments)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = self._function(*self._arguments)
