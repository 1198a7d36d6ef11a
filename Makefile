# The only door. `make` lists what there is.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash

VENV := .venv
BIN  := $(VENV)/bin
# A Python of one's own choice: make setup PYTHON=python3.12
PYTHON ?=
# ONNX Runtime comes in two builds; the one with CUDA where there is a GPU.
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo nvidia || echo cpu)
STAMP := $(VENV)/.installed-$(EXTRA)
TRAIN := $(VENV)/.with-train
TENSORFLOW := .venv-tensorflow

.PHONY: help setup setup-train setup-tensorflow run run-train demo test gpu-check check bench bench-dataset bench-convert bench-referee bench-search bench-search-live bench-serve bench-train bench-trials wrk chaos coverage mutants clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | while IFS='|' read -r name text; \
	do printf '  make %-16s %s\n' "$$name" "$$text"; done

setup: $(STAMP)  ## .venv with everything pinned; nothing is installed outside this folder
	@:

$(STAMP): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" deploy/setup.sh $(VENV) $(EXTRA) && touch $@

setup-train: setup $(TRAIN)  ## PyTorch as well (some 5 GB): PyTorch uploads, presets, training; the tests need it
	@:

$(TRAIN): $(STAMP)
	@PYTHON="$(PYTHON)" deploy/setup.sh $(VENV) $(EXTRA) train && touch $@

setup-tensorflow: $(TENSORFLOW)/.installed-tensorflow  ## .venv-tensorflow, which converts TensorFlow and Keras files
	@:

$(TENSORFLOW)/.installed-tensorflow: deploy/tensorflow.txt
	@PYTHON="$(PYTHON)" deploy/setup.sh $(TENSORFLOW) tensorflow && cp $< $@

run: setup  ## start everything, run the main job on real input, stay up until Ctrl-C
	@$(BIN)/cvp demo --start --keep

run-train: setup  ## the whole mission: digits, a search trains on them, INT8 that must keep the accuracy, the choice (needs setup-train)
	@$(BIN)/cvp demo --train --start --keep

demo: setup  ## the same, then stop; for scripts
	@$(BIN)/cvp demo --start

test: setup-train  ## all tests, real processes included
	@TESTS_NEED="torch sklearn" $(BIN)/pytest

# Needs nothing of .venv but what it has: on a GPU machine with an environment of its own, make gpu-check GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python
gpu-check:  ## what only a GPU can show: engines on CUDA, FP16, NVML, slots (GPU_PYTHON=python3: another environment's PyTorch)
	@$(GPU_PYTHON) -m pytest -c tests/gpu/pytest.ini --rootdir=. --confcutdir=tests/gpu tests/gpu

check: setup  ## ruff, formatting, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: setup-train wrk  ## the platform's figures beside their goals
	@$(BIN)/python -m benchmarks.run

wrk:
	@command -v wrk >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qqy wrk >/dev/null; } || true

bench-dataset: setup  ## a generated dataset through the API (GB=10: that large): time, memory, disk
	@$(BIN)/python -m benchmarks.datasets $(or $(GB),1)

# RIVALS=30 runs Optuna's TPE and PyGAD for as many seeds first, where that is not kept: an hour of processor time.
bench-search: setup $(if $(RIVALS),$(VENV)/.with-rivals)  ## the genetic search against chance, TPE and PyGAD, on LCBench
	@$(if $(RIVALS),$(BIN)/python -m benchmarks.rivals $(RIVALS) &&) $(BIN)/python -m benchmarks.search

bench-search-live: setup-train  ## the genetic search against chance on the digits, really trained (SEEDS=1: so many): half an hour
	@$(BIN)/python -m benchmarks.live $(SEEDS)

$(VENV)/.with-rivals: $(STAMP)
	@PYTHON="$(PYTHON)" deploy/setup.sh $(VENV) $(EXTRA) rivals && touch $@

bench-convert: setup-train setup-tensorflow  ## model files of every format through the API to predictions: how near, how long
	@$(BIN)/python -m benchmarks.conversions

bench-referee: setup-train  ## whether a benchmark's verdict can be trusted (ONLY="coverage bare": those checks): half an hour
	@$(BIN)/python -m benchmarks.referee $(ONLY)

bench-train: setup-train  ## training beside a bare loop, killed at random moments, on digits and on shapes to find (ONLY="resume": that)
	@$(BIN)/python -m benchmarks.training $(ONLY)

bench-serve: setup-train wrk  ## predictions beside those of six other servers (QUICK=1: two, ten minutes; ONLY="kill": that)
	@$(BIN)/python -m benchmarks.serve $(if $(QUICK),--quick) $(ONLY)

bench-trials: setup-train  ## what a trial of a search costs, one slot and two; a search killed ten times (ONLY="kills": that)
	@$(BIN)/python -m benchmarks.trials $(ONLY)

chaos: setup  ## kill processes under load for three minutes (KILLS=1000: that many), then check every promise
	@$(BIN)/python -m benchmarks.chaos

coverage: setup-train  ## the tests again, measured over all processes
	$(BIN)/coverage erase
	TESTS_NEED="torch sklearn" $(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

mutants: setup  ## plant seeded faults in a copy; the tests must notice every one (ONLY="golden": those with this word)
	@$(BIN)/python -m tests.mutants $(ONLY)

clean:  ## remove .venv, .venv-tensorflow, .venv-peers and caches; data stays
	rm -rf $(VENV) $(TENSORFLOW) .venv-peers build *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
