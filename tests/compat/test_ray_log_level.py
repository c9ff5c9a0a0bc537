"""The line about Ray's log level is hidden; other output to stderr is not."""

from __future__ import annotations

import os

import pytest

from safety_ray.compat.ray_log_level import log_level_line_hidden


def test_log_level_line_hidden_keeps_other_lines(capfd: pytest.CaptureFixture[str]) -> None:
    line = "[I 1] logging.cc:303: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n"

    def write_and_fail() -> None:
        with log_level_line_hidden():
            os.write(2, f"before\n{line}after".encode())
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        write_and_fail()
    os.write(2, b"!")
    assert capfd.readouterr().err == "before\nafter!"
