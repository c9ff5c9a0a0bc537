"""A real HTTP server on this machine that speaks the chat completions format; for tests of engines."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Answer = Callable[[dict[str, Any], dict[str, str]], tuple[int, dict[str, Any]]]


def completion(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    """The body of an answer as OpenAI documents it."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    made = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
    return made | {"choices": [choice], "usage": usage}


class Endpoint:
    """A server that returns `answer(body, headers)` and records requests; the statuses `first` come first.

    `gets` has the answers to GET requests by path; other paths are answered with the status `models`.
    """

    def __init__(
        self,
        answer: Answer,
        first: list[int] | None = None,
        models: int = 200,
        gets: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        statuses, lock, endpoint = list(first or []), threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.requests.append({"path": self.path, "headers": self.named(), "body": None})
                if gets and self.path in gets:
                    self.reply(200, gets[self.path])
                else:
                    self.reply(models, {"object": "list", "data": []})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = self.named()
                with lock:
                    endpoint.requests.append({"path": self.path, "headers": headers, "body": body})
                    status = statuses.pop(0) if statuses else 0
                if status:
                    self.reply(status, {"error": {"message": "later"}})
                else:
                    self.reply(*answer(body, headers))

            def named(self) -> dict[str, str]:
                return {name.title(): value for name, value in self.headers.items()}

            def reply(self, status: int, value: dict[str, Any]) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
