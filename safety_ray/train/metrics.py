"""Files of a training run: metrics.jsonl with a line per logged step, validation.jsonl, resumes.jsonl."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from safety_ray.core import filesystem

_WRITE_S = 10.0
_TAIL = 1 << 14  # bytes at the end of the file that contain the last line


class _Lines:
    """A file of JSON lines, each with a `step`. A process writes lines, and others may read them meanwhile.

    Object storage cannot append: there, the file is written again as a whole, at most every ten seconds. Call
    `flush` where all lines must be readable.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fs, self._root = filesystem.find(path)
        self._waiting: list[str] = []
        self._written = -math.inf  # time of the last write of the whole file
        self._complete = False  # whether the last line is known to have its end

    def lines(self) -> list[dict[str, Any]]:
        """Return all complete lines; one whose write is in progress, or was interrupted, is omitted."""
        self.flush()
        return self._lines(0)

    def append(self, line: dict[str, Any]) -> None:
        """Write a line at the end. An incomplete last line, which an interrupted run has left, is deleted."""
        text = json.dumps(line) + "\n"
        if filesystem.is_local(self.path):
            if not self._complete:
                complete = self._read(0)
                if len(complete) < self._size():
                    self._write(complete)
                self._complete = True
            with open(self.path, "a") as file:
                file.write(text)
            return
        self._waiting.append(text)
        if time.monotonic() - self._written > _WRITE_S:
            self.flush()

    def flush(self) -> None:
        """Write the lines that `append` has kept in memory."""
        if self._waiting:
            self._write(self._read(0) + "".join(self._waiting).encode())
            self._waiting.clear()
            self._written = time.monotonic()

    def forget_after(self, step: int) -> None:
        """Delete the lines of steps after `step`, which a resumed run repeats."""
        lines = self.lines()
        if any(line["step"] > step for line in lines):
            self._write("".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step).encode())

    def _write(self, content: bytes) -> None:
        if not filesystem.is_local(self.path):
            self._fs.pipe_file(self._root, content)  # one request: readers see the old file or the new one
            return
        filesystem.write_file(self._fs, self._root, content)

    def _size(self) -> int:
        self._fs.invalidate_cache()  # another process may have written the file
        return int(self._fs.size(self._root)) if self._fs.exists(self._root) else 0

    def _read(self, first: int) -> bytes:
        """Return the bytes from `first` on, up to the last line's end."""
        if not self._size():
            return b""
        text: bytes = self._fs.cat_file(self._root, start=first)
        return text[: text.rfind(b"\n") + 1]

    def _lines(self, first: int) -> list[dict[str, Any]]:
        """Return the complete lines that start after byte `first`, or from the start if it is 0."""
        text = self._read(first)
        return [json.loads(line) for line in text[text.find(b"\n") + 1 if first else 0 :].splitlines()]


class Metrics(_Lines):
    """The file `<output>/metrics.jsonl`."""

    def __init__(self, output: str) -> None:
        super().__init__(f"{output.rstrip('/')}/metrics.jsonl")

    def progress(self) -> tuple[int, int, str]:
        """Return the steps done, their tokens and a summary of the last line for the console."""
        lines = self._lines(max(self._size() - _TAIL, 0))
        if not lines:
            return 0, 0, ""
        return lines[-1]["step"], lines[-1]["tokens"], f"· {summary_of(lines[-1])}"

    def summary(self) -> dict[str, Any]:
        """Return steps, tokens, skipped, tokens_per_second and the mean loss of the last tenth of the run."""
        lines = self.lines()
        last = lines[-1]
        final_losses = [
            line["loss"] for line in lines if line["step"] > 0.9 * last["step"] and "skip_reason" not in line
        ]
        return {
            "steps": last["step"],
            "skipped": last["skipped"],
            "tokens": last["tokens"],
            "tokens_per_second": round(last["tokens"] / last["seconds"]),
            "final_loss": round(sum(final_losses) / len(final_losses), 4) if final_losses else None,
        }


class Resumes(_Lines):
    """The file `<output>/resumes.jsonl`: each time that training continued from a checkpoint.

    `steps` and `seconds` are those after the checkpoint, which are repeated.
    """

    def __init__(self, output: str) -> None:
        super().__init__(f"{output.rstrip('/')}/resumes.jsonl")

    def add(self, step: int, seconds: float, lines: list[dict[str, Any]]) -> None:
        """Note that a run continues from `step`, after `seconds` of training. `lines`: the metrics."""
        last = lines[-1] if lines else {"step": 0, "seconds": 0.0}
        lost = {"steps": last["step"] - step, "seconds": round(last["seconds"] - seconds, 1)}
        self.append({"step": step, **{name: max(number, 0) for name, number in lost.items()}})
        self.flush()

    def lost_work(self) -> dict[str, Any]:
        """Return the sums for the record, or {} if training never resumed."""
        lines = self.lines()
        if not lines:
            return {}
        steps, seconds = (sum(line[name] for line in lines) for name in ("steps", "seconds"))
        return {"restarts": len(lines), "steps": steps, "seconds": round(seconds, 1)}


class Validations(_Lines):
    """The file `<output>/validation.jsonl`: metrics of each checkpoint, or the `error` of its validation."""

    def __init__(self, output: str, seen: int = 0) -> None:
        super().__init__(f"{output.rstrip('/')}/validation.jsonl")
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
