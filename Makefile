# Every target sets itself up: a virtual environment in .venv with the versions pinned in constraints.txt.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_FLAGS ?=
WORKERS ?= 2
PYTEST_ARGS ?=
BROWSER ?= auto

BIN := .venv/bin
# The folder is part of the hash because a virtual environment does not survive being moved.
STAMP := .venv/.stamp-$(shell { pwd; cat pyproject.toml constraints.txt; } | cksum | cut -d ' ' -f 1)
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq $(PIP_FLAGS)

.PHONY: help setup browser demo test test-slow shapes check format organism organism-saes clean

help:
	@echo "make demo      audit several ways of forgetting on the built-in model; writes demo-report/"
	@echo "make test      run the test suite; make test-slow: the tests that it leaves out because each takes long"
	@echo "make shapes    run all tests with every shape annotation checked at run time"
	@echo "make check     lint, formatting, types, import directions"
	@echo "make format    fix formatting and what the linter can fix"
	@echo "make organism  retrain the built-in model from its seed; make organism-saes: its sparse autoencoders"
	@echo "make clean     remove .venv, caches, builds and demo-report"
	@echo
	@echo "Each target sets up .venv first when pyproject.toml or constraints.txt changed. Settings, given as NAME=VALUE:"
	@echo "PYTHON       the interpreter to start from (python3, 3.11 or newer)"
	@echo "PIP_FLAGS    more options for pip, e.g. an index with another build of torch"
	@echo "WORKERS      test processes (2); PYTEST_ARGS adds options for pytest"
	@echo "BROWSER=no   do not install Chromium for the browser tests"

setup: $(STAMP)

$(STAMP):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Vestige needs Python 3.11 or newer, and '$(PYTHON)' is not: name another one with make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv (once, a few minutes)"
	@"$(PYTHON)" -m venv .venv
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@rm -f .venv/.stamp-*
	@touch $@

browser:
	@if { command -v chromium && command -v chromedriver; } >/dev/null; then exit 0; fi; \
	as_root=''; [ "$$(id -u)" = 0 ] || as_root='sudo -n'; \
	if [ '$(BROWSER)' != no ] && command -v apt-get >/dev/null && $$as_root true 2>/dev/null; then \
	  echo "Installing Chromium for the browser tests"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  $$as_root apt-get -qq update && \
	  $$as_root apt-get -qq install --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null && exit 0; \
	fi; \
	echo "No chromium and chromedriver on this machine: the browser tests will skip"

demo: $(STAMP)
	@$(BIN)/vestige demo --out demo-report --overwrite
	@echo "The report: $(CURDIR)/demo-report/report.html"

# Some hundred processes are started: all but the first read what it compiled.
test test-slow: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP) browser
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m slow $(PYTEST_ARGS)

shapes: $(STAMP)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS) \
	  -p tests.shapes --jaxtyping-packages=hooked,probes,sae,interventions,tests.shapes.checked

check: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "some files are not formatted: make format" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(STAMP)
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

organism: $(STAMP)
	@$(BIN)/python -m vestige.organism.train --out vestige/organism/checkpoints --seed 0

organism-saes: $(STAMP)
	@$(BIN)/python -m vestige.organism.saes

clean:
	rm -rf .venv dist build *.egg-info demo-report .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
