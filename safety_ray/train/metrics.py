"""metrics.jsonl, a line for each logged step, and validation.jsonl, a line for each checkpoint measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_TAIL = 1 << 14  # bytes that hold the last line


class _Lines:
    """A file of JSON lines, each with its `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines; one that is being written, or was when a run was killed, is left out."""
        return self._lines(0)

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop what a broken run logged after its last checkpoint: those steps are done again."""
        lines = self.lines()
        if any(line["step"] > step for line in lines):
            kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
            part = self.path.with_suffix(".part")
            part.write_text("".join(kept))
            os.replace(part, self.path)

    def _lines(self, first: int) -> list[dict[str, Any]]:
        """The whole lines from byte `first` on; what stands before the first newline there is none."""
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

    def progress(self) -> tuple[int, str]:
        """Steps done, and loss, speed, use of the device, memory, waiting and skipped steps in words."""
        size = self.path.stat().st_size if self.path.exists() else 0
        lines = self._lines(max(size - _TAIL, 0))
        return (lines[-1]["step"], f"· {words(lines[-1])}") if lines else (0, "")

    def summary(self) -> dict[str, Any]:
        """steps, tokens, skipped, tokens_per_second of the whole run, mean loss of its last tenth."""
        lines = self.lines()
        last = lines[-1]
        late = [
            line["loss"] for line in lines if line["step"] > 0.9 * last["step"] and "left_out" not in line
        ]
        return {
            "steps": last["step"],
            "skipped": last["skipped"],
            "tokens": last["tokens"],
            "tokens_per_second": round(last["tokens"] / last["seconds"]),
            "final_loss": round(sum(late) / len(late), 4) if late else None,
        }


class Validations(_Lines):
    """The file `<output>/validation.jsonl`: figures of a checkpoint, or the `error` that kept them away."""

    def __init__(self, output: str, seen: int = 0) -> None:
        super().__init__(Path(output) / "validation.jsonl")
        self.seen = seen  # lines that `new` has given

    def steps(self) -> set[int]:
        return {line["step"] for line in self.lines()}

    def new(self) -> list[dict[str, Any]]:
        """The lines that came since it was last asked."""
        lines = self.lines()[self.seen :]
        self.seen += len(lines)
        return lines

    def words(self) -> str:
        """The newest line for a reader; nothing where there is none."""
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


def words(line: dict[str, Any]) -> str:
    """A line of metrics.jsonl for a reader."""
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
        parts.append(f"{line['skipped']} steps left out")
    return ", ".join(parts)
