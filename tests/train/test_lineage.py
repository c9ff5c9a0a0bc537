"""The model card lists the inputs down to the documents, if their records can be read."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from safety_ray.core import artifact
from safety_ray.core.config import setting
from safety_ray.train.lineage import lineage


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """A stage that reads two folders."""

    output: str = setting("folder")
    seed: int = setting("any", default=0)
    documents: str = setting("folder", default="")
    model: str = setting("folder", default="")


def stage(folder: Path, rows: int, seed: int = 0, **inputs: str) -> str:
    config = StageConfig(output=str(folder), seed=seed, **inputs)
    out = artifact.begin(str(folder), config, inputs)
    (folder / "model").mkdir()
    out.commit(rows_in=rows + 1, rows_out=rows, rejected=1)
    return str(folder)


def test_lineage_reports_counts_and_fingerprint_per_stage(tmp_path: Path) -> None:
    web = stage(tmp_path / "web", 100)
    fit = stage(tmp_path / "fit", 40, documents=web)
    scored = stage(tmp_path / "scored", 90, documents=web, model=f"{fit}/model")
    records = {name: json.loads((tmp_path / name / "record.json").read_text()) for name in ("web", "scored")}
    lines = lineage("rows", scored)
    assert lines[0] == (
        f"- rows `{scored}`: 91 rows in, 90 out, 1 rejected; fingerprint `{records['scored']['fingerprint']}`"
    )
    assert lines[1].startswith(f"  - documents `{web}`: 101 rows in, 100 out")
    assert lines[2].startswith(
        f"  - model `{fit}/model`: 41 rows in"
    )  # the record of the model is in the parent folder
    assert lines[3].startswith(f"    - documents `{web}`: 101 rows in")
    assert len(lines) == 4
    shutil.rmtree(fit)
    shutil.rmtree(web)
    stage(tmp_path / "web", 50, seed=1)
    other = lineage("rows", scored)
    assert other[1].endswith(f"; `{records['web']['fingerprint']}` when it was read")
    assert other[2] == f"  - model `{fit}/model`: fingerprint `{records['scored']['inputs']['model']}`"
    packed = stage(tmp_path / "packed", 80, documents=scored)
    shutil.rmtree(scored)
    stage(tmp_path / "scored", 70, seed=2, documents=str(tmp_path / "web"))
    changed = [line for line in lineage("rows", packed) if line.endswith("when it was read")]
    assert [line.split("`")[:2] for line in changed] == [["  - documents ", scored]]
    assert lineage("rows", str(tmp_path / "nothing"))[0].endswith("no readable record")
