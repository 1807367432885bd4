# On a fresh machine: `make demo` or `make test`. Each creates .venv and installs what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NETWORK := hatch_build.py tools/compile_network.py $(wildcard speakeasyd/engine/whisper/packed/*.[ch])
# Four processes: many tests wait for files to settle. The hash seed makes them collect the same tests. Not
# reordered: tests/conftest.py puts the slow modules first.
PYTEST := PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo demo-cluster test test-cluster unit lint docs torture bench regression clean

demo: $(VENV)/.demo
	$(BIN)/speakeasyd demo

demo-cluster: $(VENV)/.cluster
	$(BIN)/python tools/demo_cluster.py

test: $(VENV)/.dev
	$(PYTEST)

# One process: a Ray cluster takes long to start, and each module of tests has one.
test-cluster: $(VENV)/.cluster $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/unit/test_cluster.py tests/integration/test_cluster.py \
		tests/integration/test_worker_pool_conformance.py

unit: $(VENV)/.dev
	$(PYTEST) tests/unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict

torture: $(VENV)/.dev
	$(BIN)/python -m tests.torture

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# Fails if this version is more than a tenth slower than the one of the tag or commit PREVIOUS, in paired runs.
regression: $(VENV)/.dev
	$(PYTHON) -m venv build/previous
	git archive --prefix build/previous/source/ $(PREVIOUS) | tar -x
	build/previous/bin/python -m pip install --quiet './build/previous/source[bundled]'
	$(BIN)/python -m benchmarks --sets samples --rounds 5 --previous build/previous/bin/python

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(NETWORK) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bundled]'
	touch $@

$(VENV)/.cluster: pyproject.toml $(NETWORK) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bundled,cluster]'
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.dev: pyproject.toml $(NETWORK) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bundled,dev]'
	touch $@
