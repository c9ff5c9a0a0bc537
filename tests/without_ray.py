"""The engine of OpenAI-compatible endpoints, called in this process instead of in a Ray actor."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa

from safety_ray.llm.engine import EngineConfig
from safety_ray.llm.openai_engine import _Endpoint


def answered(config: EngineConfig, rows: pa.Table, *, schema: dict[str, Any] | None = None) -> pa.Table:
    """Return `rows` with the endpoint's replies."""

    async def work() -> pa.Table:
        return await _Endpoint(config, schema)(rows)

    return asyncio.run(work())
