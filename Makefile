# `make` alone lists the targets. Everything runs in .venv, which is made on first use and kept.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Small networks on few cores: one thread a process, one process a core.
TEST_JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-quick chaos lint docs notebooks bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with everything in it

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[keras,tune,dev]"
	touch $(READY)

quickstart: $(READY)  ## train a VGG on scanned digits in both frameworks and compare them, about two minutes
	$(BIN)/lightning-vgg compare -c configs/quickstart.yaml -c configs/compare/quickstart.yaml --jobs 2

test: $(READY)  ## all tests; LIGHTNING_VGG_TEST_DATA names a folder with the real images
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS)

test-quick: $(READY)  ## without those that take long
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) -m "not slow"

chaos: $(READY)  ## kill trainings 110 times at random moments and compare; about ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py --kills 110

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## build the documentation into site/; a warning is an error
	$(BIN)/mkdocs build --strict

notebooks: $(READY)  ## run the text of the notebooks in examples/ anew, and keep the outputs
	$(BIN)/python examples/build.py

bench: $(READY)  ## training throughput against a bare PyTorch loop; on an otherwise idle machine
	$(BIN)/python benchmarks/throughput.py

clean:  ## remove .venv and the tools' caches; runs/ stays
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
