PYTHON ?= python3
VENV := .venv
AWS_VENV := .venv-aws
BIN := $(VENV)/bin

.PHONY: help install demo test lint bench clean

help: ## Show what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed ## Make .venv with the platform and what develops it

$(VENV)/installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Forebay needs Python 3.11 or newer: make PYTHON=python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(AWS_VENV)/installed: requirements/aws.txt
	$(PYTHON) -m venv $(AWS_VENV)
	$(AWS_VENV)/bin/python -m pip install --quiet --require-hashes -r requirements/aws.txt
	@touch $@

demo: $(VENV)/installed ## See the platform work: deploy, call, burst, 0 -> N -> 0
	@$(BIN)/forebay demo

lint: $(VENV)/installed ## Style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/installed $(AWS_VENV)/installed lint ## Lint, then unit and integration tests
	$(BIN)/pytest

bench: $(VENV)/installed ## Measure, each figure a ratio in one run
	$(BIN)/python -m benchmarks

clean: ## Remove what make made
	rm -rf $(VENV) $(AWS_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
