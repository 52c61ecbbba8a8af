# make trace   set up and trace "emma"        make lint    ruff and mypy
# make test    set up and run the tests       make bench   compare speed with peers
# make clean   remove what these made
#
# JUDGES=1 also installs PyTorch, so that no test is skipped.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: trace test lint bench clean

trace: $(VENV)/installed
	$(BIN)/microgpt trace emma

test: $(VENV)/installed-test $(if $(JUDGES),$(VENV)/installed-judges)
	$(BIN)/python -m pytest

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/bench.py all

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(PIP) --group $*
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
