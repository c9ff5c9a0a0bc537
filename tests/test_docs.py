"""The guides name files, configs and jobs that exist, and link to pages that exist."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.cli import JOBS
from safety_ray.core.config import load
from serve.app import ServeConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
# The log is history, and a how-to names the files that its reader creates.
GUIDES = [page for page in PAGES if page.name != "log.md" and page.parent.name != "how-to"]
_PATH = re.compile(r"`((?:safety_ray|jobs|serve|configs|tests|benchmarks|examples|docs|scripts)/[\w./*-]+)`")
_CONFIG = re.compile(r"\bconfigs/[\w-]+/[\w.-]+\.yaml")
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_COMMAND = re.compile(r"(?:python -m jobs\.|safety-ray |python -m )(serve\.app|[a-z]+) ((?:[^\n`\\]|\\\n)*)")
_JOB = re.compile(r"(?:python -m jobs\.|safety-ray )([a-z]+) ")


def ids(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


@pytest.mark.parametrize("page", GUIDES, ids=ids(GUIDES))
def test_guide_names_existing_paths_and_jobs(page: Path) -> None:
    text = page.read_text()
    named = {path.rstrip("/") for path in (*_PATH.findall(text), *_CONFIG.findall(text))}
    # CONTRIBUTING.md names slow tests by their path below tests/slow.
    missing = [path for path in named if not [*ROOT.glob(path), *(ROOT / "tests/slow").glob(path)]]
    assert missing == []
    assert set(_JOB.findall(text)) <= {*JOBS, "serve"}


@pytest.mark.parametrize("page", GUIDES, ids=ids(GUIDES))
def test_guide_commands_have_valid_settings(page: Path) -> None:
    for job, rest in _COMMAND.findall(page.read_text()):
        cls = ServeConfig if job in ("serve", "serve.app") else JOBS[job][0]()[0] if job in JOBS else None
        words = shlex.split(rest.replace("\\\n", " "), comments=True)
        if cls is not None and words and not any("..." in word for word in words):
            with suppress(SystemExit):  # --help
                load(cls, [word for word in words if "=" in word or word.endswith((".yaml", "help"))])


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_page_links_to_existing_files_and_headings(page: Path) -> None:
    links = [
        ((page.parent / path) if path else page, anchor) for path, anchor in _LINK.findall(page.read_text())
    ]
    assert [str(path) for path, _ in links if not path.exists()] == []
    assert [f"{path}#{anchor}" for path, anchor in links if anchor and anchor not in anchors(path)] == []
