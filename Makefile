# On a fresh machine: `make demo` or `make test`. Each creates .venv and installs what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Four processes: many tests wait for files to settle. The hash seed makes them collect the same tests. Not
# reordered: tests/conftest.py puts the slow modules first.
PYTEST := PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test unit lint docs torture bench clean

demo: $(VENV)/.demo
	$(BIN)/speakeasyd demo

test: $(VENV)/.dev
	$(PYTEST)

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

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bundled]'
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bundled,dev]'
	touch $@
