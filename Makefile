# Set-up and the main job. `make pipeline` and `make test` need Debian's python3 (3.10 or later), python3-venv and make.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/digits
DATA ?= data
RESULTS ?= runs/studies/results

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet install --constraint constraints.txt

STUDIES := --data $(DATA) --runs runs/studies --results $(RESULTS)

# Every path that has an answer is a file, so a second call finds its work done.
.PHONY: help install train profile extract serve pipeline test coverage check wheel studies results clean

help:
	@echo 'make pipeline   train, profile, extract and serve the digits, end to end'
	@echo 'make train      train the digits supernet into $(RUN) (continues a stopped run)'
	@echo 'make test       run the tests'
	@echo 'make coverage   run them and say which lines they reach'
	@echo 'make check      ruff, mypy, pyright'
	@echo 'make studies    the evidence of docs/results.md anew into $(RESULTS), from CIFAR-10 in DATA=...; a day, resumes'
	@echo 'make results    docs/results.md anew from the JSON of the studies'
	@echo 'make wheel      build the wheel and try it in an environment without torch'
	@echo 'make clean      remove what the above made, but not $(VENV)'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo '$(PYTHON) is older than Python 3.10; set one with make PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
	  || { echo 'this Python cannot make virtual environments; on Debian: apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing deps with torch into $(VENV) (about 6 GB, a few minutes)'
	$(PIP) --editable '.[compile,tensorboard,tensorrt-rtx]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[compile,tensorrt-rtx,dev]'
	@touch $@

install: $(VENV)/installed

train: $(RUN)/results.json

$(RUN)/results.json: | $(VENV)/installed
	$(BIN)/deps-train digits --out $(RUN) --resume

profile: $(RUN)/latency/cpu.json

$(RUN)/latency/cpu.json: $(RUN)/results.json
	$(BIN)/deps-profile flops --supernet $(RUN) --verify
	$(BIN)/deps-profile latency --supernet $(RUN) --target cpu
	@touch $@

extract: bundles/jetson-300M/manifest.json bundles/rtx-300M/manifest.json bundles/cpu-0.2ms/manifest.json

bundles/jetson-300M/manifest.json: $(RUN)/results.json
	$(BIN)/deps-extract --supernet $(RUN) --flops 300M --target jetson --out $(@D)

bundles/rtx-300M/manifest.json: $(RUN)/results.json
	$(BIN)/deps-extract --supernet $(RUN) --flops 300M --target rtx --out $(@D)

bundles/cpu-0.2ms/manifest.json: $(RUN)/latency/cpu.json
	$(BIN)/deps-extract --supernet $(RUN) --latency 0.2ms --target cpu --out $(@D)

serve: extract
	$(BIN)/python examples/serve_digits.py bundles/cpu-0.2ms

pipeline: train profile extract serve

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

coverage: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy benchmarks/*.py
	MYPYPATH=benchmarks/studies $(BIN)/mypy benchmarks/studies/*.py
	$(BIN)/pyright

wheel: $(VENV)/installed-dev
	$(BIN)/python scripts/check_wheel.py

studies: $(VENV)/installed
	mkdir -p $(RESULTS)
	$(BIN)/python benchmarks/studies/run.py $(STUDIES)
	$(BIN)/python benchmarks/studies/pipeline.py $(STUDIES)
	$(BIN)/python benchmarks/studies/run.py $(STUDIES) --only rivals

results: $(VENV)/installed
	$(BIN)/python benchmarks/studies/page.py

clean:
	rm -rf runs bundles tables dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
