SHELL := /bin/bash
PY := .venv/bin/python

.PHONY: help setup demo reproduce check prose test test-all pins clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv with exact versions (instant when it is up to date)
	@scripts/setup.sh

demo: setup  ## the whole pipeline on this machine, from the shipped corpus to an endpoint
	@if $(PY) scripts/small_model.py; then config=demo-model; else \
	  echo "There is no small language model, so the template rewrites all documents."; config=demo; fi; \
	$(PY) -m jobs.pipeline configs/pipeline/$$config.yaml

reproduce: setup  ## the paper's experiment in miniature, on real text: needs SAFETY_RAY_DATA, 2.5 hours
	$(PY) -m jobs.collect configs/collect/reproduce.yaml
	$(PY) -m jobs.collect configs/collect/reproduce-unseen.yaml
	$(PY) -m jobs.fit configs/fit/reproduce-judge.yaml
	$(PY) -m jobs.pack configs/pack/reproduce.yaml
	$(PY) scripts/small_model.py
	$(PY) -m jobs.pack configs/pack/reproduce-135m.yaml
	$(PY) -m jobs.pretrain configs/pretrain/reproduce-135m-targets.yaml
	$(PY) -m jobs.evaluate configs/evaluate/reproduce-135m-targets.yaml
	$(PY) -m jobs.evaluate configs/evaluate/reproduce-135m-judge.yaml answers=runs/reproduce/evaluate-135m-targets \
	  output=runs/reproduce/judge-again-135m-targets
	$(PY) -m jobs.evaluate configs/evaluate/reproduce-135m-unseen.yaml model=runs/reproduce/pretrain-135m-targets \
	  drop_by=word output=runs/reproduce/unseen-135m-targets
	$(PY) -m jobs.rewrite configs/rewrite/reproduce.yaml
	$(PY) -m jobs.ablate configs/ablate/reproduce.yaml "only=[raw,rewrites,rewrites-tags]"
	$(PY) scripts/summarize.py runs/reproduce "135M=runs/reproduce/evaluate-135m-targets" \
	  "135M, second judge=runs/reproduce/judge-again-135m-targets" \
	  "135M, unseen sets=runs/reproduce/unseen-135m-targets" "7M=runs/reproduce/ablate"

check: setup  ## style, types, import contracts and prose
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	@$(MAKE) --no-print-directory prose

prose: setup  ## misspellings and retired words in docs, comments and strings
	scripts/prose.sh

test test-all: export HF_HUB_OFFLINE = 1
# Where this is set, each of the hundred processes of the tests compiles all that it imports.
test test-all: export PYTHONDONTWRITEBYTECODE =
test: check  ## before each commit: all checks and the fast tests
	env -u SAFETY_RAY_DATA $(PY) -m pytest -n 2 --hypothesis-seed=0  # the same examples in every run

test-all: check  ## what `test` runs, then tests/slow; with SAFETY_RAY_DATA also on published data
	$(PY) -m pytest -n 2
	$(PY) -m pytest -n 2 tests/slow -v

pins:  ## rewrite requirements/ from the packages in .venv
	@. scripts/uv.sh && pip_config=$$($(PY) -m pip config list) && configure_uv && $(PY) scripts/pins.py

clean:  ## remove .venv and caches; runs/ is kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info setup.log
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
