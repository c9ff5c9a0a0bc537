"""metrics.jsonl, one line per logged step, and validation.jsonl, one line per validated checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_TAIL = 1 << 14  # bytes at the end of the file that contain the last line


class _Lines:
    """A file of JSON lines, each with a `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """Return all complete lines; one whose write is in progress, or was interrupted, is omitted."""
        return self._lines(0)

    def append(self, line: dict[str, Any]) -> None:
        """Write a line at the end."""
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Delete the lines of steps after `step`, which a resumed run repeats."""
        lines = self.lines()
        if any(line["step"] > step for line in lines):
            kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
            part = self.path.with_suffix(".part")
            part.write_text("".join(kept))
            os.replace(part, self.path)

    def _lines(self, first: int) -> list[dict[str, Any]]:
        """Return the complete lines that start after byte `first`, or from the start if it is 0."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(first)
            text = file.read()
        text = text[text.find(b"\n") + 1 if first else 0 : text.rfind(b"\n") + 1]
        return [json.loads(line) for line in text.splitlines()]


class Metrics(_Lines):
    """The file `<output>/metrics.jsonl`."""

    def __init__(self, output: str) -> None:
        super().__init__(Path(output) / "metrics.jsonl")

    def progress(self) -> tuple[int, int, str]:
        """Return the steps done, their tokens and a summary of the last line for the console."""
        size = self.path.stat().st_size if self.path.exists() else 0
        lines = self._lines(max(size - _TAIL, 0))
        if not lines:
            return 0, 0, ""
        return lines[-1]["step"], lines[-1]["tokens"], f"· {summary_of(lines[-1])}"

    def summary(self) -> dict[str, Any]:
        """Return steps, tokens, skipped, tokens_per_second and the mean loss of the last tenth of the run."""
        lines = self.lines()
        last = lines[-1]
        final_losses = [
            line["loss"] for line in lines if line["step"] > 0.9 * last["step"] and "left_out" not in line
        ]
        return {
            "steps": last["step"],
            "skipped": last["skipped"],
            "tokens": last["tokens"],
            "tokens_per_second": round(last["tokens"] / last["seconds"]),
            "final_loss": round(sum(final_losses) / len(final_losses), 4) if final_losses else None,
        }


class Validations(_Lines):
    """The file `<output>/validation.jsonl`: metrics of each checkpoint, or the `error` of its validation."""

    def __init__(self, output: str, seen: int = 0) -> None:
        super().__init__(Path(output) / "validation.jsonl")
        self.seen = seen  # number of lines that `new` has returned

    def steps(self) -> set[int]:
        """Return the steps of the validated checkpoints."""
        return {line["step"] for line in self.lines()}

    def new(self) -> list[dict[str, Any]]:
        """Return the lines written since the last call."""
        lines = self.lines()[self.seen :]
        self.seen += len(lines)
        return lines

    def summary(self) -> str:
        """Return a summary of the newest line for the console; empty if there is none."""
        lines = self.lines()
        if not lines:
            return ""
        line = lines[-1]
        if "error" in line:
            return f"· step {line['step']}: validation failed"
        parts = [f"perplexity {line['perplexity_safe']:.1f}", f"P(tag) AUROC {line['p_tag_auroc']:.2f}"]
        if "unsafe_rate_beam" in line:
            rates = line["unsafe_rate_beam"], line["unsafe_rate_safebeam"]
            parts.append(f"unsafe {rates[0]:.0%}, with SafeBeam {rates[1]:.0%}")
        return f"· step {line['step']}: {', '.join(parts)}"


def summary_of(line: dict[str, Any]) -> str:
    """Return a summary of a line of metrics.jsonl for the console."""
    parts = ["loss –" if line["loss"] is None else f"loss {line['loss']:.3f}"]
    if line["tag_loss"] is not None:
        parts.append(f"tag {line['tag_loss']:.2f}")
    parts.append(f"{line['tokens_per_second']:,} tokens/s")
    if "mfu" in line:
        parts.append(f"{line['mfu']:.0%} MFU")
    parts.append(f"{line['memory_gib']:.1f} GiB")
    for key, name in (("data_wait", "data"), ("checkpoint_wait", "checkpoints")):
        if line[key] >= 0.02:
            parts.append(f"{line[key]:.0%} waiting for {name}")
    if line["skipped"]:
        parts.append(f"{line['skipped']} steps skipped")
    return ", ".join(parts)
