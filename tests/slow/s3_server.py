"""An S3-compatible server in this process (moto), which can refuse requests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

BUCKET = "bucket"
ACCOUNT = "123456789012"
SLOW_DOWN = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
EXPIRED = ("400 Bad Request", "ExpiredToken", "The provided token has expired.")
DENIED = ("403 Forbidden", "AccessDenied", "Access Denied")

Fault = tuple[str, str, str]
"""HTTP status, S3 error code and message"""


class S3Server:
    """A server on a free port of this machine, with the bucket `BUCKET`.

    `refuse(method, path, number)` returns the fault to answer a request with, or None. `number` counts the
    requests. `seen` counts the requests by method and by whether they belong to a multipart upload.
    """

    def __init__(self) -> None:
        from moto.s3.models import s3_backends
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.refuse: Callable[[str, str, int], Fault | None] = lambda method, path, number: None
        self.seen: Counter[str] = Counter()
        self.refused = 0
        self._lock = threading.Lock()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.backend = s3_backends[ACCOUNT]["aws"]
        self.backend.create_bucket(BUCKET, "us-east-1")
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make clients use this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def put(self, key: str, content: bytes) -> None:
        """Store an object without a request."""
        self.backend.put_object(BUCKET, key, content)

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects that begin with `prefix`."""
        return sorted(key for key in self.backend.buckets[BUCKET].keys if key.startswith(prefix))

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path, query = (environ[k] for k in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING"))
        with self._lock:
            self.seen[method] += 1
            if "uploadId=" in query:
                self.seen[f"{method} multipart"] += 1
            fault = self.refuse(method, path, self.seen.total())
            self.refused += fault is not None
        if fault is None:
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        status, code, message = fault
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]

    def stop(self) -> None:
        self._server.shutdown()
