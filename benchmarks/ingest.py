"""Measure text extraction on pages with gold text, and the reading of a WARC: quality and speed.

    python -m benchmarks.ingest pages=$SAFETY_RAY_DATA/web/article_extraction

`pages` is a checkout of the article extraction benchmark by Zyte (ground-truth.json, html/*.html.gz).
Precision, recall and F1 are those of that benchmark: means over pages of matching sequences of `ngram` words
(there 4 words). The table also has the F1 of single words, and a 95% interval of the difference from the
first method, which is the default of the job. All methods get the same decoded pages. Times are CPU time of
one process, so speeds are those of one core and independent of other load. The second table reads one WARC
with one gzip member for each record, made of the same pages `copies` times.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lxml.html
import trafilatura
from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcio.archiveiterator import ArchiveIterator as WarcioIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.job import main
from safety_ray.ingest.archives import read_records
from safety_ray.ingest.charset import to_text
from safety_ray.ingest.html import EXTRACTIONS, extract
from safety_ray.ingest.resumable_file import ResumableFile


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestBenchmark:
    """Measure text extraction and WARC reading."""

    pages: str = setting("folder with ground-truth.json and html/")
    ngram: int = setting("number of consecutive words that are one match", default=4)
    rounds: int = setting("bootstrap samples of the intervals", default=1000)
    copies: int = setting("number of copies of each page in the WARC", default=10)
    seed: int = setting("seed of the bootstrap", default=0)

    def __post_init__(self) -> None:
        for name in ("ngram", "rounds", "copies"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if not Path(self.pages, "ground-truth.json").is_file():
            raise UserError(f"pages={self.pages} has no ground-truth.json.")


Rates = list[tuple[float | None, float | None]]
"""Precision and recall of each page; None if the extracted or the gold text is empty."""


def compare_extractions(config: IngestBenchmark) -> dict[str, Any]:
    """Print both tables."""
    folder = Path(config.pages)
    truth = json.loads((folder / "ground-truth.json").read_text())
    gold = {key: page["articleBody"] for key, page in truth.items()}
    raw = {key: gzip.decompress((folder / "html" / f"{key}.html.gz").read_bytes()) for key in gold}
    megabytes = sum(map(len, raw.values())) / 1e6
    print(f"{len(raw)} pages, {megabytes:.1f} MB of HTML; trafilatura {trafilatura.__version__}\n")
    print("| extraction | precision | recall | F1 | difference | F1 of words | pages/s per core | MB/s |")
    print("|---|---|---|---|---|---|---|---|")
    first: Rates | None = None
    for name, method in _methods().items():
        method(to_text(next(iter(raw.values()))))  # warm up
        start = time.process_time()
        texts = {key: method(to_text(page)) for key, page in raw.items()}
        seconds = time.process_time() - start
        rates = [_match(gold[key], texts[key], config.ngram) for key in gold]
        precision, recall, f1 = _mean(rates)
        words = _mean([_match(gold[key], texts[key], 1) for key in gold])[2]
        low, high = _interval(rates, first or rates, config)
        difference = f"{f1 - _mean(first)[2]:+.3f} ({low:+.3f} to {high:+.3f})" if first else ""
        first = first or rates
        print(
            f"| {name} | {precision:.3f} | {recall:.3f} | {f1:.3f} | {difference} | {words:.3f} "
            f"| {len(raw) / seconds:.0f} | {megabytes / seconds:.1f} |",
            flush=True,
        )
    _compare_readers(raw, config)
    return {}


def _methods() -> dict[str, Callable[[str], str]]:
    def ours(name: str) -> Callable[[str], str]:
        return lambda html: extract(html, name).text

    return {
        **{f"trafilatura, {name}": ours(name) for name in EXTRACTIONS},
        "trafilatura, balanced with comments": lambda html: trafilatura.extract(html) or "",
        "trafilatura, baseline": lambda html: trafilatura.baseline(html)[1],
        "all text but scripts and styles (lxml)": _all_text,
    }


def _all_text(html: str) -> str:
    tree = lxml.html.document_fromstring(html.encode(), lxml.html.HTMLParser(encoding="utf-8"))
    for element in tree.xpath("//script|//style|//noscript|//template"):
        element.drop_tree()
    return str(tree.text_content())


def _match(gold: str, extracted: str, n: int) -> tuple[float | None, float | None]:
    expected, actual = _ngrams(gold, n), _ngrams(extracted, n)
    common = (expected & actual).total()
    return common / actual.total() if actual else None, common / expected.total() if expected else None


def _ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1)) if words)


def _mean(rates: Rates) -> tuple[float, float, float]:
    precision = statistics.mean(p for p, _ in rates if p is not None)
    recall = statistics.mean(r for _, r in rates if r is not None)
    return precision, recall, 2 * precision * recall / (precision + recall)


def _interval(rates: Rates, other: Rates, config: IngestBenchmark) -> tuple[float, float]:
    """Return the 95% interval of the difference in F1, by a paired bootstrap over pages."""
    generator = random.Random(config.seed)
    differences = []
    for _ in range(config.rounds):
        sample = [generator.randrange(len(rates)) for _ in rates]
        differences.append(_mean([rates[i] for i in sample])[2] - _mean([other[i] for i in sample])[2])
    differences.sort()
    return differences[int(0.025 * config.rounds)], differences[int(0.975 * config.rounds)]


def _compare_readers(raw: dict[str, bytes], config: IngestBenchmark) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/pages.warc.gz"
        with open(path, "wb") as file:
            writer = WARCWriter(file, gzip=True)
            for i in range(config.copies):
                for key, page in raw.items():
                    head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
                    url = f"http://example.com/{i}/{key}"
                    writer.write_record(
                        writer.create_warc_record(
                            url, "response", payload=io.BytesIO(page), http_headers=head
                        )
                    )
        compressed = Path(path).stat().st_size / 1e6
        print(f"\nWARC of {len(raw) * config.copies:,} responses, {compressed:.0f} MB compressed\n")
        print("| reader | records/s per core | MB/s compressed |")
        print("|---|---|---|")
        readers: dict[str, Callable[[str], Iterator[int]]] = {
            "ingest (offsets, damage, wrong lengths)": _ingest,
            "FastWARC, bare loop": _fastwarc,
            "warcio, bare loop": _warcio,
        }
        sizes = set()
        for name, read in readers.items():
            start = time.process_time()
            lengths = list(read(path))
            seconds = time.process_time() - start
            sizes.add((len(lengths), sum(lengths)))
            print(f"| {name} | {len(lengths) / seconds:,.0f} | {compressed / seconds:.0f} |", flush=True)
        print(f"\nequal results: {'yes' if len(sizes) == 1 else 'NO'}")


def _ingest(path: str) -> Iterator[int]:
    with ResumableFile(path) as file:
        yield from (len(record.body) for record in read_records(file, 1 << 30, Counter()))


def _fastwarc(path: str) -> Iterator[int]:
    with open(path, "rb") as file:
        for record in ArchiveIterator(file, record_types=WarcRecordType.response):
            yield len(record.reader.read())


def _warcio(path: str) -> Iterator[int]:
    with open(path, "rb") as file, redirect_stderr(io.StringIO()):
        yield from (len(record.raw_stream.read()) for record in WarcioIterator(file))


if __name__ == "__main__":
    main(IngestBenchmark, compare_extractions)
