"""The prose linter: retired words are reported with file, line and replacement, in Markdown and Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = [line.split("->") for line in (ROOT / "scripts" / "prose.txt").read_text().splitlines()]


def lint(path: Path) -> list[str]:
    """Lines that the linter prints about a file; its exit status must agree with them."""
    command = [ROOT / "scripts" / "prose.sh", path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (65 if result.stdout else 0, "")
    return result.stdout.splitlines()


def test_prose_reports_every_rule_in_markdown(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("".join(f"A row ({phrase} it).\n" for phrase, _ in RULES))
    assert len({phrase for phrase, _ in RULES}) == len(RULES)
    assert [line.removeprefix(f"{path}:").lower() for line in lint(path)] == [
        f"{number}: {phrase} ==> {replacement.removesuffix(',')}"
        for number, (phrase, replacement) in enumerate(RULES, start=1)
    ]


def test_prose_reports_docstrings_comments_and_strings(tmp_path: Path) -> None:
    phrase, replacement = RULES[0][0], RULES[0][1].removesuffix(",")
    path = tmp_path / "module.py"
    path.write_text(
        f'"""Rows.\n\nRows are {phrase}.\n"""\n'
        f"# {phrase.capitalize()} rows\n"
        f'raise ValueError(f"{{rows}} rows {phrase}")\n'
        f'text = "{phrase}"  # codespell:ignore\n'
    )
    assert lint(path) == [
        f"{path}:3: {phrase} ==> {replacement}",
        f"{path}:5: {phrase.capitalize()} ==> {replacement.capitalize()}",
        f"{path}:6: {phrase} ==> {replacement}",
    ]


def test_prose_reports_misspellings(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("One row per doc" + "umnet.\n")
    assert lint(path) == [f"{path}:1: doc" + "umnet ==> document"]


def test_prose_accepts_plain_text(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Rejected rows\n\nThe asset aside is a banknote.\n")
    (tmp_path / "module.py").write_text('"""Return the rejected rows."""\n\nset_aside = "rejected"\n')
    assert lint(tmp_path / "page.md") == lint(tmp_path / "module.py") == []


def test_make_check_runs_the_prose_linter() -> None:
    result = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "scripts/prose.sh" in result.stdout.splitlines()
