# `make` alone lists the targets. Everything runs in .venv, which is made on first use and kept.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Small networks on few cores: one thread a process, one process a core.
TEST_JOBS ?= 2
IMAGES ?= $(LIGHTNING_VGG_TEST_DATA)/data/cifar10-jpeg.tar.xz

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-quick test-all mutants chaos photos lint wheel docs notebooks bench bench-quick bench-gpu clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with everything in it

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[keras,tune,dashboard,tensorboard,cluster,onnx,dev]"
	touch $(READY)

quickstart: $(READY)  ## train a VGG on scanned digits in both frameworks and compare them, a few minutes
	$(BIN)/lightning-vgg compare -c configs/quickstart.yaml -c configs/compare/quickstart.yaml --jobs 2

test: $(READY)  ## the tests; LIGHTNING_VGG_TEST_DATA names a folder with the real images
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal -m "not thorough"

test-quick: $(READY)  ## without those that take long
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal -m "not slow and not thorough"

test-all: $(READY)  ## with the cases that make test has no time for, about an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

mutants: $(READY)  ## every planted fault, caught in float64 and in float32, and located
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal parity_tests/test_mutants.py \
	  parity_tests/test_locate.py

chaos: $(READY)  ## kill fit, extraction, tune and compare 110 times at random moments, and compare
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py --kills 110

photos: $(READY)  ## folders of photos in every layout, trained on in both frameworks, about three minutes; IMAGES=FILE
	$(BIN)/python tests/photos.py --root $(IMAGES)

lint: $(READY)  ## ruff, mypy, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(READY)  ## build the package into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

docs: $(READY)  ## build the documentation into site/; a warning is an error
	$(BIN)/mkdocs build --strict

notebooks: $(READY)  ## run the text of the notebooks in examples/ anew, and keep the outputs
	$(BIN)/python examples/build.py

bench: $(READY)  ## all benchmarks of speed and their table, hours; IMAGES=FILE names an image archive; on an idle machine
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/throughput.py --root $(IMAGES) --keras
	$(BIN)/python benchmarks/throughput.py --root $(IMAGES) --batches 32 512 1024 --turns 1 --images 4096 \
	  --output benchmarks/results/throughput_batches.json
	$(BIN)/python benchmarks/features.py --root $(IMAGES)
	$(BIN)/python benchmarks/photos.py --root $(IMAGES)
	$(BIN)/python benchmarks/heads.py --root $(IMAGES)
	$(BIN)/python benchmarks/growth.py --root $(IMAGES)
	$(BIN)/python benchmarks/accuracy.py --root $(IMAGES)
	$(BIN)/python benchmarks/table.py

bench-quick: $(READY)  ## start-up and throughput in about three minutes, into runs/bench-quick
	$(BIN)/python benchmarks/startup.py --turns 1 --output runs/bench-quick/startup.json
	$(BIN)/python benchmarks/throughput.py --root $(IMAGES) --keras --images 640 --turns 1 \
	  --output runs/bench-quick/throughput.json

bench-gpu: $(READY)  ## speed, time to accuracy and agreement on one GPU, ten minutes; no TensorFlow needed; IMAGES=FILE
	$(BIN)/python benchmarks/gpu.py --root $(IMAGES)
	$(BIN)/python benchmarks/table.py

clean:  ## remove .venv and the tools' caches; runs/ stays
	rm -rf $(VENV) site dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
