"""The command line of all jobs: `safety-ray <job> ...`, or `python -m jobs.<job> ...`.

A job's module is imported by its name only when the job runs, for two reasons: `--help` stays fast, and Ray's
workers can import functions that are defined there, which is impossible for the module `__main__`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from safety_ray.core.errors import UserError, nearest
from safety_ray.core.job import exit_codes, quiet, run_job

Job = tuple[type, Callable[[Any], dict[str, Any]]]


def _corpus() -> Job:
    from jobs.corpus import CorpusConfig, make_corpus

    return CorpusConfig, make_corpus


def _collect() -> Job:
    from jobs.collect import CollectConfig, collect_documents

    return CollectConfig, collect_documents


def _ingest() -> Job:
    from jobs.ingest import IngestConfig, ingest_documents

    return IngestConfig, ingest_documents


def _label() -> Job:
    from jobs.label import LabelConfig, label_documents

    return LabelConfig, label_documents


def _merge() -> Job:
    from jobs.merge import MergeConfig, merge_partitions

    return MergeConfig, merge_partitions


def _fit() -> Job:
    from jobs.fit import FitConfig, fit_classifier

    return FitConfig, fit_classifier


def _score() -> Job:
    from jobs.score import ScoreConfig, score_documents

    return ScoreConfig, score_documents


def _audit() -> Job:
    from jobs.audit import AuditConfig, audit_scores

    return AuditConfig, audit_scores


def _rewrite() -> Job:
    from jobs.rewrite import RewriteConfig, rewrite_documents

    return RewriteConfig, rewrite_documents


def _publish() -> Job:
    from jobs.publish import PublishConfig, convert_published

    return PublishConfig, convert_published


def _report() -> Job:
    from jobs.report import ReportConfig, write_report_card

    return ReportConfig, write_report_card


def _pack() -> Job:
    from jobs.pack import PackConfig, pack_documents

    return PackConfig, pack_documents


def _pretrain() -> Job:
    from jobs.pretrain import PretrainConfig, pretrain_model

    return PretrainConfig, pretrain_model


def _finetune() -> Job:
    from jobs.finetune import FinetuneConfig, finetune_model

    return FinetuneConfig, finetune_model


def _evaluate() -> Job:
    from jobs.evaluate import EvaluateConfig, evaluate_model

    return EvaluateConfig, evaluate_model


def _abliterate() -> Job:
    from jobs.abliterate import AbliterateConfig, abliterate_model

    return AbliterateConfig, abliterate_model


def _pipeline() -> Job:
    from jobs.pipeline import PipelineConfig, run_pipeline

    return PipelineConfig, run_pipeline


def _ablate() -> Job:
    from jobs.ablate import AblateConfig, run_ablation

    return AblateConfig, run_ablation


JOBS: dict[str, tuple[Callable[[], Job], str]] = {
    "corpus": (_corpus, "write the demo's labelled documents"),
    "collect": (_collect, "write published label sets as scored documents"),
    "ingest": (_ingest, "read web files (WARC, WET, HTML, JSONL, Parquet) into documents"),
    "label": (_label, "label documents 0-5 with a language model as judge"),
    "fit": (_fit, "train and measure the harm classifier"),
    "score": (_score, "score documents 0-5 with a classifier, a judge or both"),
    "audit": (_audit, "measure scores against labels of a sample, and choose a threshold"),
    "rewrite": (_rewrite, "rephrase mildly unsafe documents; turn the worst into refusals and lessons"),
    "merge": (_merge, "join the partitions of a stage that ran with partition=1/n to n/n"),
    "publish": (_publish, "convert rewritten datasets to and from the paper's published form"),
    "report": (_report, "write the Data Safety Report Card"),
    "pack": (_pack, "turn documents into token rows, with harmfulness tags in unsafe text"),
    "pretrain": (_pretrain, "train a language model on token rows"),
    "finetune": (_finetune, "train a model further on chats"),
    "evaluate": (_evaluate, "answer prompts with any model and judge the answers; P(tag), perplexity"),
    "abliterate": (_abliterate, "attack a model: remove the direction between harmful and harmless prompts"),
    "pipeline": (_pipeline, "run all stages in order, from documents to an endpoint"),
    "ablate": (_ablate, "train and evaluate models that differ in their data: one table, two figures"),
}
"""Every job: how to import it, and its line in `safety-ray --help`."""


def main(name: str, argv: list[str] | None = None) -> None:
    """Run the job `name` with `argv`, by default the rest of the command line."""
    quiet()
    with exit_codes():
        load_job, _ = JOBS[name]
        cls, run = load_job()
        run_job(cls, run, sys.argv[1:] if argv is None else argv)


def command(argv: list[str] | None = None) -> None:
    """Entry point of `safety-ray`: the first word names a job, or `serve`."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    name, rest = words[0], words[1:]
    if name == "serve":
        quiet()
        from serve.app import main as serve

        return serve(rest)
    with exit_codes():
        if name not in JOBS:
            known = [*JOBS, "serve"]
            raise UserError(f"unknown job '{name}'; the nearest is '{nearest(name, known)}'.")
    main(name, rest)


def usage() -> str:
    """Return the text of `safety-ray --help`."""
    lines = ["usage: safety-ray JOB [CONFIG.yaml] [key=value ...]", "", "jobs:"]
    lines += [f"  {name:<10} {summary}" for name, (_, summary) in JOBS.items()]
    lines += ["  serve      serve a model behind an OpenAI-compatible endpoint", ""]
    return "\n".join([*lines, "safety-ray JOB --help lists the settings of a job."])


if __name__ == "__main__":
    command()
