SHELL := /bin/bash
PY := .venv/bin/python

# Real datasets for the tests that can use them, where they lie beside the checkout.
ifneq ($(wildcard ../shared/data),)
export SAFETY_RAY_DATA ?= $(abspath ../shared/data)
endif

.PHONY: help setup demo test pins clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv with exact versions (instant when it is up to date)
	@scripts/setup.sh

demo: setup  ## the whole pipeline on this machine, from the shipped corpus to a report
	@$(PY) -m jobs.pipeline configs/pipeline/demo.yaml

test: export HF_HUB_OFFLINE = 1
test: setup  ## style, types, import contracts and all tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m pytest -n 2

pins:  ## rewrite requirements/ from what .venv holds
	@$(PY) scripts/pins.py

clean:  ## remove .venv and caches; runs/ is kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info setup.log
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
