PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEV = $(VENV)/.installed-dev

.PHONY: quickstart test lint bench clean

quickstart: $(DEV)  ## the whole path on the embedded sample
	$(BIN)/grlm quickstart

test: $(DEV)  ## all tests that need no GPU
	$(BIN)/python -m pytest

lint: $(DEV)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DEV)  ## measured comparisons; rewrites benchmarks/results
	$(BIN)/python benchmarks/decoding/recommend.py

$(DEV): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "grlm-hf needs Python 3.11 or newer; found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(DEV)

clean:
	rm -rf $(VENV) grlm-quickstart runs build dist
