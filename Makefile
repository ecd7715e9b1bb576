PYTHON ?= python3
VENV := .venv
AWS_VENV := .venv-aws
BIN := $(VENV)/bin

.PHONY: help install demo test chaos chaos-selftest test-upgrade images e2e lint format bench requirements clean

help: ## Show what each target does
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed ## Make .venv with the platform and what develops it

$(VENV)/installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Forebay needs Python 3.11 or newer: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "this Python has no venv module: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) (the first time takes a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The aws CLI pins its own botocore, so it lives apart.
$(AWS_VENV)/installed: requirements/aws.txt
	@echo "installing the aws CLI into $(AWS_VENV), a client for the tests ..."
	@$(PYTHON) -m venv $(AWS_VENV)
	@$(AWS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/aws.txt
	@touch $@

demo: $(VENV)/installed ## See the platform work: deploy, call, burst, 0 -> N -> 0
	@$(BIN)/forebay demo

lint: $(VENV)/installed ## Style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/installed $(AWS_VENV)/installed ## Unit and integration tests
	$(BIN)/pytest --numprocesses auto --maxprocesses 4

chaos: $(VENV)/installed ## Faults by seed on the real platform, compared with a ledger: SEEDS=5 EVENTS=2000
	$(BIN)/python -m tests.chaos --seeds $(or $(SEEDS),5) --events $(or $(EVENTS),2000)

chaos-selftest: $(VENV)/installed ## Break the product on purpose, and see that chaos finds each mistake
	$(BIN)/python -m tests.chaos selftest

test-upgrade: $(VENV)/installed ## Parts of this release beside those of the one before, under load
	$(BIN)/pytest tests/upgrade

images: ## Build the four container images with docker, podman or buildah; REGISTRY=… pushes them
	@scripts/images.sh

e2e: $(VENV)/installed $(AWS_VENV)/installed ## Tests on a real Kubernetes: FOREBAY_E2E_KUBECONFIG, or a node started here (root, Linux)
	$(BIN)/pytest tests/cluster

format: $(VENV)/installed ## Put the code into the one form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed ## Measure, each figure a ratio in one run
	$(BIN)/python -m benchmarks

PIN := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url

requirements: ## Pin the newest versions that pyproject.toml allows, with their hashes
	$(PIN) --upgrade --extra local --extra cluster --group dev --output-file requirements/dev.txt pyproject.toml
	$(PIN) --constraints requirements/dev.txt --extra gateway --output-file requirements/gateway.txt pyproject.toml
	$(PIN) --constraints requirements/dev.txt --extra cluster --output-file requirements/controller.txt pyproject.toml
	$(PIN) --constraints requirements/dev.txt --output-file requirements/runtime.txt pyproject.toml
	echo 'boto3>=1.40' | $(PIN) --constraints requirements/dev.txt --output-file requirements/functions.txt -
	echo 'awscli>=1.40' | $(PIN) --upgrade --output-file requirements/aws.txt -
	for peer in arq celery[redis] dramatiq[redis] huey[redis] rq; do \
		echo "$$peer" | $(PIN) --upgrade --output-file requirements/peers/$${peer%%[*}.txt - || exit 1; \
	done
	printf 'saq[hiredis]\ntyping-extensions\n' | $(PIN) --upgrade --output-file requirements/peers/saq.txt - # it imports it

clean: ## Remove what make made
	rm -rf $(VENV) $(AWS_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
