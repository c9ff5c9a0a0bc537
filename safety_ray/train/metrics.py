"""metrics.jsonl: one line for each logged step, and what can be read from them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_TAIL = 1 << 14  # bytes that hold the last line


class Metrics:
    """The file `<output>/metrics.jsonl`."""

    def __init__(self, output: str) -> None:
        self.path = Path(output) / "metrics.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines; one that is being written, or was when a run was killed, is left out."""
        return self._lines(0)

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop what a broken run logged after its last checkpoint: those steps are done again."""
        if self.path.exists():
            kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
            part = self.path.with_suffix(".part")
            part.write_text("".join(kept))
            os.replace(part, self.path)

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

    def _lines(self, first: int) -> list[dict[str, Any]]:
        """The whole lines from byte `first` on; what stands before the first newline there is none."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(first)
            text = file.read()
        text = text[text.find(b"\n") + 1 if first else 0 : text.rfind(b"\n") + 1]
        return [json.loads(line) for line in text.splitlines()]


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
