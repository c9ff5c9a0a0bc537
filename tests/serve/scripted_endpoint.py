"""A server that speaks the endpoint's protocol from a script, so that a test decides what comes when."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

SETTINGS = {
    "model": "safety-ray",
    "mode": "mask",
    "modes": ["off", "mask", "stop", "safebeam", "sample"],
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
Part = bytes | threading.Event
"""Bytes that go out at once, or an event that the server waits for."""


def event(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


DONE = event("[DONE]")


def chunk(
    tokens: Sequence[str], p_tags: Sequence[float | None], text: str | None = None, **more: Any
) -> bytes:
    """An event of /v1/completions; `more` are fields of `safety`, but for `finish_reason`."""
    choice = {
        "index": 0,
        "text": "".join(tokens) if text is None else text,
        "logprobs": {"tokens": list(tokens)},
        "finish_reason": more.pop("finish_reason", None),
        "safety": {"p_tags": list(p_tags), **more},
    }
    return event({"object": "text_completion", "choices": [choice]})


def chat_chunk(tokens: Sequence[str], p_tags: Sequence[float | None], **more: Any) -> bytes:
    """The same of /v1/chat/completions."""
    choice = {
        "index": 0,
        "delta": {"content": "".join(tokens)},
        "logprobs": {"content": [{"token": token} for token in tokens]},
        "finish_reason": more.pop("finish_reason", None),
        "safety": {"p_tags": list(p_tags), **more},
    }
    return event({"object": "chat.completion.chunk", "choices": [choice]})


class ScriptedEndpoint:
    """`scripts[mode]` is what a request in that mode gets: parts of a stream, or a (status, body)."""

    def __init__(self) -> None:
        self.url = ""
        self.settings: dict[str, Any] | tuple[int, bytes] = dict(SETTINGS)
        self.scripts: dict[str, list[Part] | tuple[int, bytes]] = {}
        self.asked: list[dict[str, Any]] = []
        """Body of each POST, with its `path` and `key`."""
        self.missing: list[str] = []
        """Paths that were asked for and are not there."""
        self.gone = threading.Event()
        """Set when a client went away before its answer was complete."""

    def bodies(self) -> dict[str, dict[str, Any]]:
        """The last request in each mode."""
        return {body["safety"]["mode"]: body for body in self.asked}


@contextmanager
def scripted_endpoint(prefix: str) -> Iterator[ScriptedEndpoint]:
    """Serves below `prefix`, which begins and ends with a slash, on any free port of this machine."""
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
            found = files("serve").joinpath("playground", path or "index.html")
            if not found.is_file():
                endpoint.missing.append(self.path)
                return self.answer(404, "text/plain", b"not here")
            return self.answer(200, TYPES[found.name.rpartition(".")[2]], found.read_bytes())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path, key = self.path.removeprefix(prefix), self.headers["Authorization"]
            endpoint.asked.append({**body, "path": path, "key": key})
            script = endpoint.scripts[body["safety"]["mode"]]
            if isinstance(script, tuple):
                return self.answer(script[0], "application/json", script[1])
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.end_headers()
            for part in script:
                if isinstance(part, bytes):
                    self.wfile.write(part)
                    self.wfile.flush()
                elif not self.wait(part):
                    endpoint.gone.set()
                    return None
            return None

        def wait(self, moment: threading.Event) -> bool:
            """Whether it came, while the client was there; five minutes at most."""
            self.connection.settimeout(0.02)
            for _ in range(15_000):
                if moment.is_set():
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
