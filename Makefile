# `make serve` and `make test` need Python 3.11 or newer and nothing else: the environment is
# made in .venv at the first call and is only touched again when pyproject.toml or
# constraints.txt change.
#
#   make serve ARGS="--port 8080"     start the server (ARGS go to `ridgeline serve`)
#   make test  ARGS="tests/cli -x"    all but the slow and the browser tests (ARGS go to pytest)

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SERVE_STAMP := $(VENV)/.installed-serve
TEST_STAMP := $(VENV)/.installed-test
INPUTS := pyproject.toml constraints.txt
# A file's tests share servers and browsers, and so stay on one process. ARGS="-n0" is all on one.
PROCESSES := --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install -c constraints.txt

.PHONY: help serve test lint bench docs clean

help:
	@echo "make serve   start the server with the default model   (ARGS=... for ridgeline serve)"
	@echo "make test    run the fast tests                        (ARGS=... for pytest)"
	@echo "make lint    ruff check, ruff format --check, mypy"
	@echo "make bench   measure a running server                  (ARGS=... for ridgeline bench)"
	@echo "make docs    write the generated parts of the documentation"
	@echo "make clean   remove .venv and caches"

serve: $(SERVE_STAMP)
	@exec $(BIN)/ridgeline serve $(ARGS)

test: $(TEST_STAMP)
	@exec $(BIN)/python -m pytest $(PROCESSES) $(ARGS)

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(SERVE_STAMP)
	@exec $(BIN)/ridgeline bench $(ARGS)

docs: $(SERVE_STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/python -m ridgeline.telemetry.reference > docs/metrics.md

# The stamps are written last, so that an interrupted installation is taken up again.
$(SERVE_STAMP): $(INPUTS) $(BIN)/python
	@echo "Installing Ridgeline into $(VENV) (torch is the large part; a few minutes the first time) ..."
	@$(PIP) -e .
	@touch $@

$(TEST_STAMP): $(INPUTS) $(BIN)/python
	@echo "Installing Ridgeline and its test tools into $(VENV) (a few minutes the first time) ..."
	@$(PIP) -e '.[dev]'
	@touch $@ $(SERVE_STAMP)

# PYTHON=... overrides the search. Debian's python3 lacks ensurepip unless python3-venv is there.
$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	      echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; \
	      exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$($$python --version) ..."; \
	    rm -rf $(VENV) && exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "Ridgeline needs Python 3.11 or newer, and found none." >&2; \
	echo "Install it (on Debian and Ubuntu: apt install python3 python3-venv) or name it: make serve PYTHON=/path/to/python3" >&2; \
	exit 1

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
