"""The forward pass of a tree of tokens as a CUDA graph: one launch instead of hundreds of kernels.

A graph repeats its kernels on the same memory. The inputs therefore have fixed tensors, which each step
fills, and the pass is captured again when their shapes have changed. On a CPU the same tensors are used
without a graph, so that tests need no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

_WARM_UP = 2  # passes before the capture, in which libraries choose and initialize their kernels


class FixedStep:
    """A function of tensors of fixed shapes; captured on a GPU."""

    def __init__(self, function: Callable[..., Tensor], arguments: list[Tensor]) -> None:
        self._arguments = [argument.clone() for argument in arguments]
        self._captured = _capture(function, self._arguments) if arguments[0].is_cuda else None

    def __call__(self, function: Callable[..., Tensor], arguments: list[Tensor]) -> Tensor:
        """Return `function` of the arguments. A graph writes the next result to the same memory."""
        for fixed, argument in zip(self._arguments, arguments, strict=True):
            fixed.copy_(argument)
        if self._captured is None:
            return function(*self._arguments)
        graph, output = self._captured
        graph.replay()
        return output

    def fits(self, arguments: list[Tensor]) -> bool:
        """Return whether `arguments` have the shapes of the fixed tensors."""
        return [a.shape for a in arguments] == [a.shape for a in self._arguments]


def _capture(function: Callable[..., Tensor], arguments: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    device = arguments[0].device
    with torch.cuda.device(device):
        stream = _stream(device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            output = function(*arguments)
    return graph, output


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return a stream to capture on; libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)
