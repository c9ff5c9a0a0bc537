"""Graceful shutdown of an endpoint."""

from __future__ import annotations

import threading
from typing import Any

from known_model import KEY
from one_endpoint import stop_running
from openai import OpenAI

MODEL = "safety-ray"
LONG: Any = {"model": MODEL, "prompt": "ab", "max_tokens": 150}
BODY: Any = {"ignore_eos": True, "safety": {"mode": "safebeam"}}


def test_endpoint_drains_active_stream_on_shutdown(client: OpenAI) -> None:
    texts: list[str] = []
    whole = client.completions.create(**LONG, extra_body=BODY).choices[0].text
    own = OpenAI(base_url=client.base_url, api_key=KEY, timeout=600, max_retries=0)
    stream = own.completions.create(**LONG, stream=True, extra_body=BODY)
    first = next(iter(stream)).choices[0].text

    def read() -> None:
        texts.append(first + "".join(event.choices[0].text for event in stream))

    reader = threading.Thread(target=read)
    reader.start()
    stop_running()
    reader.join()
    assert texts == [whole]
