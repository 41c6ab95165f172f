# Every verb is one line that a person can type. `make help` prints the comments.
# Needs nothing beforehand but Python 3.11 or newer, a C++ compiler and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/*)

.PHONY: help demo test tiny lint types bench memory models docs clean
help: ## what there is to type
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(STAMP) ## an LSTM learns real series, beats the baselines and draws the forecast
	$(BIN)/holdfast demo

test: $(STAMP) ## everything that proves correctness
	$(BIN)/python -m pytest

tiny: $(STAMP) ## the promises in ten seconds
	$(BIN)/python -m pytest -m tiny

lint: $(STAMP) types ## style, types, limits
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP) ## the type checker alone
	$(BIN)/basedpyright --level error

bench: $(STAMP) ## the engine's tables, measured on this machine
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt jax
	for file in training inference ragged variants medium others softmax recompute stream precision_stream decoder packed_matrix; do \
		$(BIN)/python benchmarks/engine_$$file.py || exit 1; done

memory: $(STAMP) ## the six experiments of the LSTM's first paper, lags up to 1,000 steps; an hour, and it resumes
	$(BIN)/python benchmarks/long_memory.py

models: $(STAMP) ## ready models from data whose licences allow it: make models DATA=FOLDER; hours, and it resumes
	$(BIN)/python benchmarks/ready_models.py $(DATA)

docs: $(STAMP) ## the generated tables of README and guide, from benchmarks/results
	$(BIN)/python docs/tables.py

clean: ## forget the virtual environment and builds
	rm -rf $(VENV) build

# The virtual environment, pinned packages and compiled kernels. A second run finds the stamp and starts at once.
$(STAMP): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/holdfast doctor --quick
	touch $@
