# Set-up and checks. `make demo` and `make test` need nothing but Python 3.11+ and a network with PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo-campaign

.PHONY: demo test lint format bundle clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

# The base install: screens on a CPU; no torch, no DALI, no TensorRT.
$(VENV)/base: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# What the tests, the linters and the training need on top.
$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[report,train,gpu,tensorrt-rtx]" --group dev
	touch $@ $(VENV)/base

# Many of the examples are there to be rejected: no reason to fail (exit code 3).
demo: $(VENV)/base
	$(BIN)/screener run examples/archive --out $(DEMO) --reject-share 1

test: $(VENV)/dev
	tests/install_chromium.sh
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Trains and packs a bundle like the one that ships, from a folder laid out as docs/bundle.md describes; GPU=1 on a GPU.
bundle: $(VENV)/dev
	$(BIN)/python -m training.build_bundle --data "$(DATA)" $(if $(GPU),--gpu)

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
