"""Rows that end their worker. A death is a start without an end; test_deadly_documents.py kills workers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pyarrow as pa
from local_watch import HERE, LOST, LocalStarts, LocalWatch

from safety_ray.core.lost_work import LostWork, add_up, describe

BATCH = pa.table({"id": ["a", "b", "c"]})
Calls = list[list[str]]


class CallingWatch(LocalWatch):
    """A watch that notes the rows of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Calls = []

    def rows(self) -> list[dict[str, Any]]:
        def add(batch: pa.Table) -> pa.Table:
            self.calls.append(batch.column("id").to_pylist())
            return batch.append_column("done", pa.array([True] * len(batch)))

        def reject(row: pa.Table, reason: str) -> pa.Table:
            return row.append_column("why", pa.array([reason]))

        rows: list[dict[str, Any]] = self.call(add, BATCH, reject).to_pylist()
        return rows


def test_watch_calls_whole_batch_until_it_died_twice() -> None:
    watch = CallingWatch()
    for deaths in (0, 1):
        watch.die("batch of 3 from a", deaths)
        assert watch.rows() == [{"id": id, "done": True} for id in "abc"]
    assert watch.calls == [["a", "b", "c"]] * 2
    assert not watch.starts.starts


def test_watch_rejects_only_the_row_that_died_alone() -> None:
    watch = CallingWatch()
    watch.die("batch of 3 from a", 2)
    watch.die("row b", 2)
    watch.die("row c", 1)
    a, b, c = watch.rows()
    assert watch.calls == [["a"], ["c"]]
    assert (a["done"], b["done"], c["done"]) == (True, None, True)
    assert (a["why"], c["why"]) == (None, None)
    assert "ended the worker process 2 times" in b["why"]


def test_watch_rejects_several_rows_of_a_repeated_batch() -> None:
    class Dead(BaseException):
        """The worker's process has ended."""

    class DyingWatch(LocalWatch):
        dead = False

        def end(self, key: str) -> None:
            if not self.dead:  # a dead process ends nothing
                super().end(key)

    watch, deaths = DyingWatch(), 0

    def die(batch: pa.Table) -> pa.Table:
        if batch.column("id").to_pylist() == ["b"]:
            return batch
        watch.dead = True
        raise Dead

    rows = None
    while rows is None:
        watch.dead = False
        try:
            rows = watch.call(die, BATCH, lambda row, reason: row.append_column("why", pa.array([reason])))
        except Dead:
            deaths += 1
    assert [bool(why) for why in rows.column("why").to_pylist()] == [True, False, True]
    assert deaths == 6, "two with the whole batch, and two for each of the deadly rows"


def test_watch_runs_no_batch_of_another_thread_beside_a_row() -> None:
    """Else a batch that ends the worker would be counted as a death of the row."""
    watch, other, entered, leave = CallingWatch(), CallingWatch(), threading.Event(), threading.Event()

    def hold() -> None:
        with watch.alone("x"):
            entered.set()
            assert leave.wait(60)

    with ThreadPoolExecutor(2) as pool:
        row = pool.submit(hold)
        assert entered.wait(60)
        batch = pool.submit(other.rows)
        assert wait([batch], timeout=0.05).not_done
        assert not other.starts.starts, "a batch that waits has not started"
        leave.set()
        row.result(60)
        assert len(batch.result(60)) == 3


def test_watch_keeps_row_whose_nodes_were_lost() -> None:
    watch = CallingWatch()
    watch.die("batch of 3 from a", 2)
    watch.die("row a", 2, LOST)
    watch.die("row b", 1)
    watch.die("row b", 2, LOST)
    watch.die("row c", 1)
    watch.die("row c", 3, LOST)
    a, b, c = watch.rows()
    assert (a["done"], b["done"], c["done"]) == (True, True, None)
    assert "ended the worker process 2 times" in c["why"]


def test_starts_add_up_work_lost_with_workers_and_nodes() -> None:
    starts = LocalStarts()
    for worker, node in (("1", HERE), ("1", HERE), ("2", HERE), ("3", LOST), ("4", HERE)):
        starts.start("watch a", node, worker, rows=10)
    starts.start("watch row a", HERE)  # part of the batch
    starts.start("watch row a", HERE)
    starts.start("other b", HERE, "5", rows=10)
    lost = starts.lost_work("watch")
    assert lost.pop("seconds") >= 0
    assert lost == {"workers": 2, "nodes": 1, "rows": 30}
    starts.end("watch a")
    starts.start("watch a", HERE, "6", rows=10)
    assert starts.lost_work("watch")["rows"] == 30
    assert starts.lost_work("other") == {}


def test_lost_seconds_are_the_longest_of_each_process() -> None:
    lost = LostWork()
    for worker, seconds in (("1", 2.0), ("1", 5.0), ("1", 3.0), ("2", 4.0)):
        lost.add("workers", worker, rows=1, seconds=seconds)
    lost.add("nodes", "1", rows=1, seconds=1.5)
    assert lost.record() == {"workers": 2, "nodes": 1, "rows": 5, "seconds": 10.5}


def test_starts_count_no_lost_work_of_living_worker() -> None:
    """A row that was rejected keeps its starts, and the worker that rejected it may start it again."""
    starts = LocalStarts()
    for worker in ("1", "2", "3", "3", "3"):
        starts.start("watch row", HERE, worker, rows=1)
    lost = starts.lost_work("watch")
    assert (lost["workers"], lost["rows"]) == (2, 2)


def test_starts_count_rows_of_work_that_tells_them_later() -> None:
    starts = LocalStarts()
    starts.start("watch file", HERE, "1")
    starts.add_rows("watch file", 7)
    starts.add_rows("watch file", 5)
    starts.add_rows("watch ended", 5)
    starts.start("watch file", HERE, "2")
    assert starts.lost_work("watch")["rows"] == 12


def test_describe_names_what_was_lost() -> None:
    lost = {"workers": 1, "nodes": 0, "rows": 1200, "seconds": 3.5}
    assert describe({"lost_work": lost}) == "lost work: 1 worker, 1,200 rows, 3.5 s"
    assert describe({"lost_work": add_up([lost, lost])}) == "lost work: 2 workers, 2,400 rows, 7.0 s"
    assert describe({"lost_work": add_up([])}) == describe({}) == ""


def test_watch_counts_no_death_for_an_exception() -> None:
    watch = CallingWatch()
    for _ in range(5):
        try:
            with watch.work("file") as deaths:
                assert deaths == 0
                raise ValueError
        except ValueError:
            continue
    assert not watch.starts.starts
