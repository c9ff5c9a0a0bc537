"""Remote files are read like local ones, also after a broken connection."""

from __future__ import annotations

import gzip
import json
import random
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_writer import Archive, page, pages

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core import dataset
from safety_ray.core.errors import UserError
from safety_ray.ingest import resumable_file
from safety_ray.ingest.readers import list_files, read

LIMIT = 4_000_000


class Server:
    """A local web server for one folder."""

    def __init__(self, folder: Path) -> None:
        self.ranges = True
        self.truncations: dict[str, int] = {}
        """path → number of further responses that are truncated"""
        self.requests: list[str] = []
        handler = partial(Handler, self, directory=str(folder))
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


class Handler(SimpleHTTPRequestHandler):
    def __init__(self, server: Server, *args: object, **names: object) -> None:
        self.settings = server
        super().__init__(*args, **names)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.settings.requests.append(self.path)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().do_GET()
        body, wanted = path.read_bytes(), re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.settings.ranges and wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.settings.truncations.get(self.path, 0):
            self.settings.truncations[self.path] -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.close()
        else:
            self.wfile.write(body)
        return None

    def end_headers(self) -> None:
        if self.settings.ranges:
            self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


@pytest.fixture
def web(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "a.warc.gz").write_bytes(pages(30).data)
    lines = "\n".join(json.dumps({"id": f"j{i}", "text": f"Line {i}"}) for i in range(50))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    ids = [f"p{i}" for i in range(50)]
    pq.write_table(pa.table({"id": ids, "text": [f"Row {i}" for i in range(50)]}), folder / "c.parquet")
    (folder / "d.html").write_text(page(99))
    return folder


@pytest.fixture
def server(web: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(resumable_file, "RETRY_DELAYS", (0.01, 0.01, 0.01))
    started = Server(web)
    yield started
    started.http.shutdown()
    started.http.server_close()


NAMES = ("a.warc.gz", "b.jsonl.gz", "c.parquet", "d.html")


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("name", NAMES)
def test_remote_source_matches_local_file(web, server, name, ranges) -> None:
    server.ranges = ranges
    local = list(read(str(web / name), LIMIT))
    remote = list(read(f"{server.url}/{name}", LIMIT))
    assert local
    assert [(r.position, r.value, r.problem) for r in local] == [
        (r.position, r.value, r.problem) for r in remote
    ]
    assert f"/{name}" in server.requests


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("name", NAMES)
def test_remote_source_reconnects_after_broken_connection(web, server, name, ranges) -> None:
    server.ranges, server.truncations = ranges, {f"/{name}": 2}
    local = [record.value for record in read(str(web / name), LIMIT)]
    remote = [record.value for record in read(f"{server.url}/{name}", LIMIT)]
    assert server.truncations == {f"/{name}": 0}
    assert local == remote


def test_remote_source_raises_user_error_after_last_retry(server) -> None:
    server.truncations = {"/a.warc.gz": 10**6}
    with pytest.raises(UserError, match=r"/a.warc.gz' cannot be read beyond byte 0 \("):
        list(read(f"{server.url}/a.warc.gz", LIMIT))


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_source_raises_user_error_for_timeout_mid_archive(tmp_path, monkeypatch, packed) -> None:
    archive = Archive(packed)
    for number in range(40):
        archive.response(f"http://example.com/{number}", random.Random(number).randbytes(6000).hex())
    (tmp_path / "a.warc").write_bytes(archive.data)
    original = resumable_file.ResumableFile._read

    def lost(self: resumable_file.ResumableFile, size: int) -> bytes:
        if self.tell() > 100_000:
            raise TimeoutError("no answer")
        return original(self, size)

    monkeypatch.setattr(resumable_file, "RETRY_DELAYS", (0.0,))
    monkeypatch.setattr(resumable_file.ResumableFile, "_read", lost)
    records = read(str(tmp_path / "a.warc"), LIMIT)
    assert next(records).position == 0
    with pytest.raises(UserError, match=r"cannot be read beyond byte 131,072 \(TimeoutError: no answer"):
        list(records)


def test_ingest_stage_reads_http_folder(tmp_path, server, ray_cluster) -> None:
    assert [path.rsplit("/")[-1] for path in list_files(f"{server.url}/")] == list(NAMES)
    record = ingest_documents(IngestConfig(input=f"{server.url}/", output=str(tmp_path / "out")))
    assert (record["rows_out"], record["rejected"], record["files"]) == (131, 0, 4)
    rows = dataset.table(str(tmp_path / "out")).to_pylist()
    assert {row["source_file"] for row in rows} == {f"{server.url}/{name}" for name in NAMES}


def test_ingest_readers_support_fsspec_memory_filesystem() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/crawl/a.warc.gz", pages(3).data)
    fs.pipe_file("/crawl/notes.txt", b"no documents")
    assert list_files("memory://crawl") == ["memory:///crawl/a.warc.gz"]
    assert [record.problem for record in read("memory:///crawl/a.warc.gz", LIMIT)] == [None] * 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://bucket/crawl", "'gs://bucket/crawl' needs a package that is not installed: install gcsfs."),
        ("abfs://box/crawl", "install adlfs"),
        ("nonsense://x", "'nonsense://x' cannot be reached: Protocol not known: nonsense"),
        ("http://127.0.0.1:9/a.warc.gz", "does not exist|cannot be listed"),
    ],
)
def test_ingest_stage_raises_user_error_for_unreachable_path(tmp_path, path, message) -> None:
    with pytest.raises(UserError, match=message):
        ingest_documents(IngestConfig(input=path, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    if "127" not in path:
        (tmp_path / "a.jsonl").write_text('{"text": "x"}')
        with pytest.raises(UserError, match=message):
            ingest_documents(IngestConfig(input=str(tmp_path / "a.jsonl"), output=path))
