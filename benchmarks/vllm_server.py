"""Run vLLM's own OpenAI-compatible server in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from safety_ray.core.ports import free_port


@contextmanager
def vllm_server(folder: str, name: str, flags: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Serve the model in `folder` as `name` while the block runs; yield the URL (…/v1)."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--disable-log-stats", *flags],
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        else:
            raise RuntimeError(f"the vLLM server ended with {server.returncode}")
        yield f"{url}/v1"
    finally:
        server.terminate()
        server.wait()
