"""The part of the backend that would start kernels."""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.driver import DriverBase


class InterpretedDriver(DriverBase):
    """A driver that is there and starts nothing."""

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> Any:
        raise NotImplementedError("kernels are interpreted")

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("kernels are interpreted")
