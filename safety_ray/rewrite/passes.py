"""The passes over the tasks: write, read, score and judge; what was set aside is tried again.

With a language model a pass first writes its drafts to disk and then scores them, so that the model and
the classifier never need room at the same time, and a broken run keeps every reply it has paid for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray import dataset, engine, filesystem
from safety_ray.artifact import Artifact
from safety_ray.dataset import Counts
from safety_ray.rewrite import acceptance, tasks, template
from safety_ray.rewrite.compare import ScoreAndCompare
from safety_ray.rewrite.settings import RewriteConfig
from safety_ray.score import ensemble
from safety_ray.score.judge import judge_rows
from safety_ray.score.stage_pool import score

if TYPE_CHECKING:
    import ray.data

DRAFTS, WRITTEN, TRIED = "drafts", "written", "tried"
_LONG = "_long"
_JOINED_ROWS = 2_000
"""drafts of parts that are joined in one block"""


class Rewriter:
    """Runs the passes of one stage into `out`."""

    def __init__(self, config: RewriteConfig, out: Artifact) -> None:
        self.config, self.out = config, out

    def tried(self, name: str, todo: Callable[[], ray.data.Dataset], source_id: str, total: int) -> Counts:
        """Rewrite the tasks that `todo` reads, and again what was set aside; returns what is left of them.

        `source_id` is the name that the tasks' source_id has where `todo` reads, `total` is about how
        many they are. Rows go to the part `name`; those of documents in parts to `name`_long; those of a
        further attempt to `name`_2 and so on.
        """
        rows_out = set_aside = 0
        for base in (name, name + _LONG):
            left = 0
            for attempt in range(1, self.config.attempts + 1):
                part = _part(base, attempt)
                done = dataset.written(self.out, part)
                if done is None and attempt == 1:
                    done = self._attempt(part, todo(), source_id, attempt, total)
                elif done is None:
                    if not left:
                        break
                    before = self.out.sub("set_aside", _part(base, attempt - 1))
                    retry = dataset.read(before, (tasks.ASIDE,)).map_batches(
                        partial(tasks.again, draws=self.config.draws(attempt)), batch_format="pyarrow"
                    )
                    done = self._attempt(part, retry, "source_id", attempt, left)
                if attempt > 1:
                    self._close(_part(base, attempt - 1))
                rows_out, left = rows_out + done.rows_out, done.set_aside
            set_aside += left
        return Counts(rows_out, set_aside)

    def _attempt(self, part: str, todo: ray.data.Dataset, source_id: str, attempt: int, total: int) -> Counts:
        config, long = self.config, _LONG in part
        todo = todo.map_batches(
            partial(tasks.only, long=long, max_chars=config.max_chars), batch_format="pyarrow"
        )
        resume_by, read_as = "source_id", source_id
        if long:
            # The parts are written down first: each is then a row that a broken run finds again.
            todo = todo.map_batches(partial(tasks.cut, draws=config.draws(attempt)), batch_format="pyarrow")
            cut = self._interim(todo, "cut", part, "", "", 0)
            if cut is None:
                return self._nothing(part)
            todo, total, resume_by, read_as = *cut, "id", "id"
        drafts = draft(todo, config, attempt)
        if long or config.engine.kind != "template":
            written = self._interim(drafts, WRITTEN, part, resume_by, read_as, total)
            if written is None:
                return self._nothing(part)
            drafts, total, resume_by, read_as = *written, "id", "id"
        if long:
            # All parts of a document meet in one block.
            drafts = drafts.repartition(total // _JOINED_ROWS + 1, keys=[tasks.WHOLE]).map_batches(
                tasks.join_parts, batch_format="pyarrow", batch_size=None
            )
            read_as = tasks.WHOLE
        # The template keeps sentences of its source, so there is nothing to find out.
        compares = config.accept.compares and config.engine.kind != "template"
        compare = ScoreAndCompare if compares else None
        scored = score(drafts, config, config.classifier, total, actor=compare)
        if config.judge.kind != "template":
            scored = scored.map_batches(ensemble.keep_classifiers, batch_format="pyarrow")
            written = self._interim(scored, "scored", part, resume_by, read_as, total)
            assert written is not None
            scored, resume_by, read_as = self._judged(part, *written), "id", "id"
        settled = scored.map_batches(
            partial(tasks.settle, bounds=config.accept, reason_column=dataset.REASON), batch_format="pyarrow"
        )
        return dataset.write(
            settled, self.out, label=part, total=total, write_rows=config.write_rows,
            max_set_aside=1.0, resume_by=resume_by, read_as=read_as, part=part,
        )  # fmt: skip

    def _interim(
        self, ds: ray.data.Dataset, what: str, part: str, resume_by: str, read_as: str, total: int
    ) -> tuple[ray.data.Dataset, int] | None:
        """`ds` written below drafts/ and read again, with its number of rows; None where it has none."""
        folder = Artifact(self.out.sub(DRAFTS, what, part), {}, {})
        counts = dataset.write(
            ds, folder, label=f"{part} {what}", total=total or None, write_rows=self.config.write_rows,
            resume_by=resume_by or None, read_as=read_as or None,
        )  # fmt: skip
        if not counts.rows_out:
            return None
        return dataset.read(folder.sub("data"), ()), counts.rows_out

    def _judged(self, part: str, scored: ray.data.Dataset, rows: int) -> ray.data.Dataset:
        """`scored` with the judge's score beside the classifier's, the higher one in `score`."""
        judged = Artifact(self.out.sub(DRAFTS, "judged", part), {}, {})
        judge_rows(
            scored, judged, self.config.judge, seed=self.config.seed, total=rows,
            write_rows=self.config.write_rows, names=ensemble.JUDGED,
            finish=partial(ensemble.combine, ensemble="max", alone=False),
        )  # fmt: skip
        return dataset.read(judged.path, ())  # also those without a judgement, whose score is null

    def _nothing(self, part: str) -> Counts:
        """Note that there was nothing to do."""
        for folder in ("data", "set_aside"):
            fs, root = filesystem.find(self.out.sub(folder, part))
            fs.makedirs(root, exist_ok=True)
        return Counts(0, 0)

    def _close(self, part: str) -> None:
        """A later attempt has the rows that `part` set aside; their reasons are counted before they go."""
        fs, root = filesystem.find(self.out.sub("set_aside", part))
        left = [name for name in fs.find(root) if name.endswith(".parquet")]
        if not left:
            return
        note = self.out.sub(TRIED, f"{part}.json")
        if not fs.exists(note):
            fs.makedirs(filesystem.find(self.out.sub(TRIED))[1], exist_ok=True)
            with fs.open(note, "w") as file:
                json.dump(self._reasons(part), file)
        for name in left:  # the folder stays: it says that the part is whole
            fs.rm(name)

    def _reasons(self, part: str) -> dict[str, int]:
        """How many rows of a part were set aside, by the kind of reason."""
        fs, root = filesystem.find(self.out.sub("set_aside", part))
        found: Counter[str] = Counter()
        for name in sorted(n for n in fs.find(root) if n.endswith(".parquet")):
            with fs.open(name) as file:
                reasons = pq.read_table(file, columns=[dataset.REASON]).column(0)
            for each in pc.value_counts(reasons).to_pylist():
                found[acceptance.kind(each["values"])] += each["counts"]
        return {kind: found[kind] for kind in (*acceptance.KINDS, *sorted(found)) if found[kind]}

    def outcomes(self, names: list[str]) -> dict[str, dict[str, int]]:
        """What became of the rows of each part: accepted, or set aside by the kind of reason."""
        found = {}
        for part in (_part(name + long, n + 1) for name in names for long in ("", _LONG)
                     for n in range(self.config.attempts)):  # fmt: skip
            counts = dataset.written(self.out, part)
            if counts is None:
                continue
            fs, note = filesystem.find(self.out.sub(TRIED, f"{part}.json"))
            if fs.exists(note):
                with fs.open(note) as file:
                    reasons = json.load(file)
            else:
                reasons = self._reasons(part)
            if counts.rows_out or reasons:
                found[part] = {"accepted": counts.rows_out, **reasons}
        return found


def _part(base: str, attempt: int) -> str:
    return base if attempt == 1 else f"{base}_{attempt}"


def draft(todo: ray.data.Dataset, config: RewriteConfig, attempt: int) -> ray.data.Dataset:
    """The tasks with what the engine wrote, read but not yet judged."""
    # Blocks of a write task's size from here on: they are what actors share and what a failure repeats.
    todo = todo.repartition(target_num_rows_per_block=config.write_rows, strict=True)
    write = engine.processor(
        config.engine_of(attempt), template=partial(template.write, seed=config.seed + attempt - 1)
    )
    return write(todo).map_batches(tasks.read_replies, batch_format="pyarrow")
