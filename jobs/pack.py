"""scored and rewritten documents → token rows, with tags in unsafe documents (paper, section 4).

    <output>/data/shard-00000.parquet   rows of records.TOKEN_ROW, numbered across all shards
    <output>/groups.parquet             which rows each row group of these files contains
    <output>/tokenizer/                 a transformers tokenizer with the tag
    <output>/heldout/heldout.parquet    web documents that are not trained on in any form, with all columns

There are four steps: held-out documents; tokenizer; token ids of every document, in the temporary folder
`encoded/`; rows, shard by shard. A resumed run skips steps that were finished. With partition=i/n, a job does
the first three for its share of the documents, and jobs.merge the last one for all of them:

    <output>/partitions/<i>-of-<n>/data/, heldout/, tokenizer/    token ids instead of rows
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray.data import Dataset

from safety_ray.core import (
    artifact,
    cluster,
    dataset,
    filesystem,
    partition,
    progress,
)
from safety_ray.core.artifact import Artifact
from safety_ray.core.chunks import CHUNKS
from safety_ray.core.config import fingerprint
from safety_ray.core.errors import UserError
from safety_ray.core.exchange import WHOLE_BLOCKS
from safety_ray.core.records import SCORED_TEXT, Column
from safety_ray.core.worker_deaths import Watch
from safety_ray.pack import heldout, inputs, lookups, selection, shards, vocabulary, writing
from safety_ray.pack.encode import encode_watched
from safety_ray.pack.heldout import HELDOUT, SPLIT
from safety_ray.pack.selection import DUPLICATE, ROOT, ROOT_SCORE, TRAIN, UNSELECTED, Selection
from safety_ray.pack.settings import PackConfig
from safety_ray.pack.vocabulary import Vocabulary

__all__ = ["PackConfig", "pack_documents"]

_BATCH = 256
_ENCODED = "encoded"


def pack_documents(config: PackConfig) -> dict[str, Any]:
    """Write the token rows. Returns the record; a finished folder is skipped."""
    original = partition.of(config, "scored", "rewritten")
    config = inputs.with_threshold(original)
    out = artifact.begin(config.output, original, inputs.paths(config), temporary=(_ENCODED,))
    if out.record is not None:
        return out.record
    cluster.start()
    # What is held out, and which texts are equal, is decided from all documents, whatever the share.
    total = dataset.count(partition.whole(config.scored))
    share = None
    if not lookups.has_split(partition.whole(config.scored)):
        share = heldout.share_of(config.heldout_share, config.heldout_max, total)
    copies = None if config.keep_duplicates else lookups.find_copies(config, share, total)
    heldout_hashes = lookups.hold_out(config, out, share, copies)
    chosen = Selection(
        config.seed,
        frozenset(config.raw_scores),
        frozenset(config.recipes),
        config.tag_from,
        share,
        by_chunk=config.tag_scope == "chunk",
        heldout=heldout_hashes,
        roots=lookups.find_roots(config),
        copies=copies,
    )
    sources = {"web": _select(config.scored, SCORED_TEXT, (SPLIT, CHUNKS), selection.select_raw, chosen)}
    totals = {"web": dataset.count(config.scored)}
    if inputs.reads_rewritten(config):
        sources["rewritten"] = _select(
            config.rewritten, inputs.REWRITTEN_COLUMNS, (ROOT, ROOT_SCORE), selection.select_rewritten, chosen
        )
        totals["rewritten"] = dataset.count(config.rewritten)
    web, *rewritten = sources.values()
    documents = web.union(*rewritten) if rewritten else web  # `union` needs an argument
    tokenizer = _make_tokenizer(config, out, documents, sum(totals.values()))
    if config.partition:
        rejected = _encode(config, out, sources, tokenizer, totals)
        paths = [config.scored, *[config.rewritten] * inputs.has_rewritten(config)]
        return out.commit(
            rows_in=sum(totals.values()),
            rows_out=sum(totals.values()) - rejected,
            rejected=rejected,
            tokenizer=fingerprint(tokenizer.backend_tokenizer.to_str()),
            **partition.record("pack", dataset.files, *paths),
        )
    encoded = Artifact(out.sub(_ENCODED), out.config, out.inputs)
    rejected = _encode(config, encoded, sources, tokenizer, totals)
    copy_rejected(out, {"": _ENCODED})
    return finish_rows(
        config, out, dataset.files(encoded.sub("data")), tokenizer, sum(totals.values()), rejected
    )


def finish_rows(
    config: PackConfig,
    out: Artifact,
    encoded: list[str],
    tokenizer: Vocabulary,
    documents: int,
    rejected: int,
) -> dict[str, Any]:
    """Write the rows of `encoded`, the files of token ids of all `documents`. Returns the record."""
    schedule, counts = writing.plan(config, encoded, tokenizer.tag_id)
    rows = writing.write_rows(config, out, encoded, tokenizer, counts, schedule)
    return out.commit(
        rows_in=documents,
        rows_out=rows,
        rejected=rejected,
        balanced=False,  # documents in, token rows out; _encode has checked the numbers of documents
        row_length=config.row_length,
        vocab_size=tokenizer.size,
        tag=config.tag,
        tag_from=config.tag_from,
        tag_id=tokenizer.tag_id,
        end_of_text_id=tokenizer.end_id,
        tokens=counts.tokens.total(),
        tags=counts.tags,
        padding=rows * config.row_length - counts.tokens.total(),
        documents=counts.uses[TRAIN],
        heldout=counts.uses[HELDOUT],
        unselected=counts.uses[UNSELECTED],
        duplicates=counts.uses[DUPLICATE],
        tokens_by_recipe=dict(sorted(counts.recipes.items())),
    )


def finish_partitions(
    config: PackConfig, out: Artifact, folders: list[str], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the rows of all partitions, which are in the `folders` of `out`. Returns the record."""
    for folder, record in zip(folders, records, strict=True):
        if record["tokenizer"] != records[0]["tokenizer"]:
            raise UserError(
                f"'{out.sub(folder)}' was made with another tokenizer than {folders[0]}, because "
                f"'{config.tokenizer}' has changed; remove the folder and run the partition again."
            )
    cluster.start()
    config = inputs.with_threshold(config)
    path = out.sub(*heldout.FILE)
    if not shards.exists(path):
        tables = [dataset.table(out.sub(folder, heldout.FILE[0])) for folder in folders]
        heldout.write(path, tables[0].schema, tables)
    if not vocabulary.is_saved(out.sub("tokenizer")):
        vocabulary.save(vocabulary.load(out.sub(folders[0], "tokenizer")), out.sub("tokenizer"))
    tokenizer = inputs.tables(config, vocabulary.load(out.sub("tokenizer")))
    copy_rejected(out, {folder.rsplit("/", 1)[-1]: folder for folder in folders})
    encoded = [file for folder in folders for file in dataset.files(out.sub(folder))]
    documents, rejected = (sum(record[name] for record in records) for name in ("rows_in", "rejected"))
    return finish_rows(config, out, encoded, tokenizer, documents, rejected)


def _select(
    path: str, needed: tuple[Column, ...], extra: tuple[str, ...], function: Any, chosen: Selection
) -> Dataset:
    names = [c.name for c in needed] + [n for n in dataset.columns(path) if n in extra]
    documents = dataset.stream(dataset.files(path), names)
    return documents.map_batches(
        function, fn_kwargs={"selection": chosen}, batch_format="pyarrow", batch_size=_BATCH
    )


def _make_tokenizer(config: PackConfig, out: Artifact, documents: Dataset, total: int) -> Vocabulary:
    folder = out.sub("tokenizer")
    if not vocabulary.is_saved(folder):
        tokenizer = (
            vocabulary.open_existing(config.tokenizer, config.tag)
            if config.tokenizer
            else vocabulary.train(_texts(documents, total), config.vocab_size, config.tag, config.row_length)
        )
        vocabulary.save(tokenizer, folder)
    return inputs.tables(config, vocabulary.load(folder))


def _texts(documents: Dataset, total: int) -> Iterator[list[str]]:
    line, done = progress.Line("tokenizer", total, "documents", first=0, saved=False), 0
    texts = documents.map_batches(selection.only_trained, **WHOLE_BLOCKS)
    for batch in texts.iter_batches(batch_format="pyarrow", batch_size=_BATCH):
        yield batch.column("text").drop_null().to_pylist()
        done += len(batch)
        line.show(done)
    line.show(done, final=True)


def _encode(
    config: PackConfig,
    encoded: Artifact,
    sources: dict[str, Dataset],
    tokenizer: Vocabulary,
    totals: dict[str, int],
) -> int:
    """Write the token ids of every document to `encoded`. Returns the number of rejected documents.

    There is one pass per source: Ray's row checkpoints occupy a CPU for each source of a pass, so a resumed
    pass over two sources would have none left on two cores.
    """
    rejected = 0
    watch = Watch()
    settings = {
        "seed": config.seed,
        "tag_rate": config.tag_rate,
        "tag_from": config.tag_from,
        "at_beginning": config.tag_scope == "beginning",
    }
    for name, documents in sources.items():
        counts = dataset.write(
            documents.map_batches(
                encode_watched,
                fn_kwargs={"watch": watch, "vocabulary": tokenizer, **settings},
                batch_format="pyarrow",
                batch_size=_BATCH,
            ),
            encoded,
            label=f"ids {name}",
            total=totals[name],
            max_rejected=config.max_rejected,
            part=name,
        )
        if counts.rows_out + counts.rejected != totals[name]:
            raise RuntimeError(
                f"{encoded.path}: of {totals[name]} {name} documents {counts.rows_out} were encoded and "
                f"{counts.rejected} were rejected, so some were lost or duplicated: is every id unique?"
            )
        rejected += counts.rejected
    return rejected


def copy_rejected(out: Artifact, folders: dict[str, str]) -> None:
    """Copy the rejected documents of each of the `folders` of `out`, which become those of the job."""
    filesystem.remove(out.sub("rejected"))
    for name, folder in folders.items():
        filesystem.copy_files(out.sub(f"{folder}/rejected"), out.sub("rejected", *[name] * bool(name)))


if __name__ == "__main__":
    from jobs.cli import main

    main("pack")
