"""vLLM's bfloat16 kernels on processors with AMX: enabled in each process, or float32 if Linux refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from safety_ray.compat.amx import amx_supported

needs_amx = pytest.mark.skipif(not amx_supported(), reason="this processor has no AMX")

REFUSED = """
import ctypes, logging
# Linux refuses the tiles where a thread's alternate signal stack is too small to hold them: 2,048 bytes are.
class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(2048)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.sigaltstack(ctypes.byref(Stack(ctypes.addressof(memory), 0, 2048)), None) == 0
logging.basicConfig(format="%(message)s")
from safety_ray.core.device import cpu_dtype
print(cpu_dtype())
"""
ALLOWED = "from safety_ray.core.device import cpu_dtype; print(cpu_dtype())"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@needs_amx
def test_cpu_dtype_falls_back_to_float32_where_amx_is_refused() -> None:
    done = run(REFUSED)
    assert done.stdout == "float32\n"
    assert done.stderr.count("AMX tiles, which Linux does not permit here") == 1


@needs_amx
def test_cpu_dtype_is_bfloat16_where_amx_is_allowed() -> None:
    done = run(ALLOWED)
    assert (done.stdout, done.stderr) == ("bfloat16\n", "")


def test_vllm_plugin_is_registered() -> None:
    from importlib.metadata import entry_points

    [plugin] = [p for p in entry_points(group="vllm.general_plugins") if p.name == "safety_ray"]
    assert plugin.load().__module__ == "safety_ray.compat.vllm_plugin"
