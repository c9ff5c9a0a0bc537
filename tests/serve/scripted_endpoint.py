"""A server with the endpoint's protocol that answers from a script, so that a test controls the timing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from safety_ray.decode.modes import MODES, describe_modes

SETTINGS = {
    "model": "safety-ray",
    "mode": "mask",
    "modes": list(MODES),
    "decoding": describe_modes(),
    "allow_off": True,
    "threshold": 0.03,
    "beam_size": 4,
    "num_candidates": 4,
    "drop_share": 0.5,
    "max_rows": 32,
    "max_tokens": 256,
    "needs_key": False,
    "chat": True,
}
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
Step = bytes | threading.Event
"""Bytes to send, or an event to wait for."""


def event(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


DONE = event("[DONE]")


def chunk(
    tokens: Sequence[str], p_tags: Sequence[float | None], text: str | None = None, **more: Any
) -> bytes:
    """Return an event of /v1/completions; `more` are `finish_reason` and fields of `safety`."""
    choice = {
        "index": 0,
        "text": "".join(tokens) if text is None else text,
        "logprobs": {"tokens": list(tokens)},
        "finish_reason": more.pop("finish_reason", None),
        "safety": {"p_tags": list(p_tags), **more},
    }
    return event({"object": "text_completion", "choices": [choice]})


def chat_chunk(tokens: Sequence[str], p_tags: Sequence[float | None], **more: Any) -> bytes:
    """Return an event of /v1/chat/completions."""
    choice = {
        "index": 0,
        "delta": {"content": "".join(tokens)},
        "logprobs": {"content": [{"token": token} for token in tokens]},
        "finish_reason": more.pop("finish_reason", None),
        "safety": {"p_tags": list(p_tags), **more},
    }
    return event({"object": "chat.completion.chunk", "choices": [choice]})


class ScriptedEndpoint:
    """`scripts[mode]` is the answer to a request in that mode: steps of a stream, or (status, body)."""

    def __init__(self) -> None:
        self.url = ""
        self.settings: dict[str, Any] | tuple[int, bytes] = dict(SETTINGS)
        self.scripts: dict[str, list[Step] | tuple[int, bytes]] = {}
        self.received: list[dict[str, Any]] = []
        """Body of each POST, with its `path` and `key`."""
        self.missing: list[str] = []
        """Requested paths that do not exist."""
        self.disconnected = threading.Event()
        """Set when a client disconnects before its answer is complete."""

    def bodies(self) -> dict[str, dict[str, Any]]:
        """Return the last request in each mode."""
        return {body["safety"]["mode"]: body for body in self.received}


@contextmanager
def scripted_endpoint(prefix: str) -> Iterator[ScriptedEndpoint]:
    """Serve below `prefix`, which begins and ends with a slash, on a free port of this machine."""
    endpoint = ScriptedEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix(prefix) if self.path.startswith(prefix) else "?"
            if path == "v1/safety":
                settings = endpoint.settings
                status, body = (
                    settings if isinstance(settings, tuple) else (200, json.dumps(settings).encode())
                )
                return self.answer(status, "application/json", body)
            file = files("serve").joinpath("playground", path or "index.html")
            if not file.is_file():
                endpoint.missing.append(self.path)
                return self.answer(404, "text/plain", b"not found")
            return self.answer(200, TYPES[file.name.rpartition(".")[2]], file.read_bytes())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path, key = self.path.removeprefix(prefix), self.headers["Authorization"]
            endpoint.received.append({**body, "path": path, "key": key})
            script = endpoint.scripts[body["safety"]["mode"]]
            if isinstance(script, tuple):
                return self.answer(script[0], "application/json", script[1])
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.end_headers()
            for step in script:
                if isinstance(step, bytes):
                    self.wfile.write(step)
                    self.wfile.flush()
                elif not self.wait(step):
                    endpoint.disconnected.set()
                    return None
            return None

        def wait(self, event: threading.Event) -> bool:
            """Wait up to five minutes; return False if the client disconnects first."""
            self.connection.settimeout(0.02)
            for _ in range(15_000):
                if event.is_set():
                    return True
                try:
                    if self.connection.recv(1) == b"":
                        return False
                except TimeoutError:
                    continue
                except ConnectionError:
                    return False
            return False

        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", "default-src 'self'")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        endpoint.url = f"http://127.0.0.1:{server.server_port}{prefix}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield endpoint
        server.shutdown()
