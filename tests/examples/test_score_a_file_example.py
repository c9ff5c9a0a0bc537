from __future__ import annotations

from pathlib import Path

import pytest
from example import load_example

script = load_example("score_a_file")


def test_example_score_a_file_prints_one_line_per_text(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("The bakery opens at seven.\n\nWe will hurt them and burn their homes down.\n")
    script.main([str(classifier), str(file)])
    safe, unsafe = capsys.readouterr().out.splitlines()
    assert safe.endswith("  The bakery opens at seven.")
    assert unsafe.endswith("  We will hurt them and burn their homes down.")
    assert 0 <= int(safe[0]) < int(unsafe[0]) <= 5


def test_example_score_a_file_reports_missing_classifier(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"error: '{tmp_path}' .* no classifier"):
        script.main([str(tmp_path), str(tmp_path / "texts.txt")])
