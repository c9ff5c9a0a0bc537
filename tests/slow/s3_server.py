"""An S3-compatible server in this process (moto), which can refuse requests."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest

REQUIREMENTS = (
    # Without what this project installs anyway, in versions that some of these do not name.
    "moto==5.2.5", "boto3==1.44.8", "botocore==1.44.8", "s3transfer==0.19.3", "jmespath==1.1.0",
    "xmltodict==1.0.4", "responses==0.26.3", "py-partiql-parser==0.6.3", "werkzeug==3.1.9", "flask==3.1.3",
    "flask-cors==6.0.5", "blinker==1.9.0", "itsdangerous==2.2.0", f"s3fs=={fsspec.__version__}",
    "aiobotocore==3.10.0", "aioitertools==0.13.0", "wrapt==2.5.2",
)  # fmt: skip
BUCKET = "bucket"
ACCOUNT = "123456789012"
SLOW_DOWN = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
EXPIRED = ("400 Bad Request", "ExpiredToken", "The provided token has expired.")
DENIED = ("403 Forbidden", "AccessDenied", "Access Denied")

Fault = tuple[str, str, str]
"""HTTP status, S3 error code and message"""


def packages(cache: Path) -> Path:
    """Return a folder of the packages that the server and its clients need; the first call installs them.

    Skips the test if they cannot be installed, for example without a package index.
    """
    digest = hashlib.sha256(" ".join((sys.version, *REQUIREMENTS)).encode()).hexdigest()[:12]
    folder = cache / f"s3-{digest}"
    if not (folder / "installed").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        installed = subprocess.run([*pip, *REQUIREMENTS], capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"moto and s3fs cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
        (folder / "installed").touch()
    return folder


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
