"""metrics.jsonl: one line for each logged step, and what can be read from them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Metrics:
    """The file `<output>/metrics.jsonl`."""

    def __init__(self, output: str) -> None:
        self.path = Path(output) / "metrics.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines; one that is being written, or was when a run was killed, is left out."""
        if not self.path.exists():
            return []
        text = self.path.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

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
        """Steps done, and loss and speed in words."""
        lines = self.lines()
        if not lines:
            return 0, ""
        last = lines[-1]
        return last["step"], f"· loss {last['loss']:.3f}, {last['tokens_per_second']:,} tokens/s"

    def summary(self) -> dict[str, Any]:
        """steps, tokens, tokens_per_second of the whole run, and the mean loss of its last tenth."""
        lines = self.lines()
        last = lines[-1]
        late = [line["loss"] for line in lines if line["step"] > 0.9 * last["step"]]
        return {
            "steps": last["step"],
            "tokens": last["tokens"],
            "tokens_per_second": round(last["tokens"] / last["seconds"]),
            "final_loss": round(sum(late) / len(late), 4),
        }
