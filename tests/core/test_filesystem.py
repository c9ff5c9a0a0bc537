"""Listings of inputs: one request per folder, and one more only for files that it does not describe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec

from safety_ray.core import filesystem


class Server:
    """A filesystem whose listing has no sizes for some files, as that of a web server."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def info(self, path: str) -> dict[str, Any]:
        self.asked.append(path)
        return {"name": path, "size": 7, "ETag": "x"}


def test_states_ask_only_for_files_without_size() -> None:
    server = Server()
    listed = {"in/b": {"size": 3, "ETag": "y"}, "in/a": {"size": None}, "in/c": {"size": 0, "mtime": 1.5}}
    assert filesystem.states(server, listed) == {
        "in/a": ["a", 7, "x"],
        "in/b": ["b", 3, "y"],
        "in/c": ["c", 0, "1.5"],
    }
    assert server.asked == ["in/a"]


def test_states_of_links_are_those_of_info(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.utime(tmp_path / "a", ns=(1, 1))
    fs = fsspec.filesystem("file")
    found = filesystem.states(fs, fs.find(str(tmp_path), detail=True))
    infos = {path: fs.info(path) for path in found}
    assert found == {
        path: [Path(path).name, info["size"], str(info["mtime"])] for path, info in infos.items()
    }
