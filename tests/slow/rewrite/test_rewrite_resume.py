"""Resume a write whose rows have other ids than the rows that it reads, as in the rewriting stage."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from broken_run import broken_run
from rewrite_runs import rows_of

from safety_ray.core import dataset
from safety_ray.core.artifact import Artifact

pytestmark = pytest.mark.covers("safety_ray.core.dataset", "jobs.rewrite")


def test_dataset_write_resume_repeats_only_unwritten_rows(
    tmp_path: Path, scored: Path, ray_cluster: None
) -> None:
    out, crash, log = Artifact(str(tmp_path / "out"), {}, {}), tmp_path / "crash", tmp_path / "log"
    crash.touch()
    log.mkdir()
    checkpoint = Path(out.sub("_checkpointa"))

    def rename(batch: pa.Table) -> pa.Table:
        ids = batch.column("id").to_pylist()
        (log / f"{len(list(log.iterdir()))}-{ids[0].replace('/', '-')}").write_text("\n".join(ids))
        if crash.exists() and len(list(log.iterdir())) > 3:  # and some rows are written
            while all(".pending." in file.name for file in checkpoint.glob("*.parquet")):
                time.sleep(0.05)
            raise RuntimeError("the machine went away")
        batch = batch.select(["id"]).rename_columns(["source_id"])
        return batch.append_column("id", pa.array([f"{id}/new" for id in ids]))

    def stage() -> dataset.Counts:
        ds = dataset.read(str(scored), ()).repartition(target_num_rows_per_block=10, strict=True)
        ds = ds.map_batches(rename, batch_format="pyarrow", batch_size=None, num_cpus=1)
        return dataset.write(
            ds, out, label="test", total=60, write_rows=10, resume_by="source_id", read_as="id", part="a"
        )

    broken_run(stage, "the machine went away")
    crash.unlink()
    for file in log.iterdir():
        file.unlink()
    written = {
        id
        for f in checkpoint.glob("*.parquet")
        if not f.name.endswith(".pending.parquet")
        for id in pads.dataset(f).to_table().column(0).to_pylist()
    }
    assert stage() == dataset.Counts(60, 0)
    repeated = [id for f in log.iterdir() for id in f.read_text().split("\n")]
    assert not written & set(repeated)
    assert len(repeated) == 60 - len(written)
    assert written, "the first run wrote something before it broke"
    ids = [r["source_id"] for r in rows_of(out.path, "data/a")]
    assert sorted(ids) == sorted(r["id"] for r in rows_of(str(scored), ""))
