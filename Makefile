# Two commands do all the set-up: `make demo` and `make test`.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: help setup demo test test-system test-vllm node chaos soak fuzz bench docs dashboards system-packages lint format constraints clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV) (about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[test,bench]'
	@touch $@

setup: $(VENV)/.ready ## Make .venv with the package and everything the tests need

demo: setup ## Score a small live lake on two simulated replicas and audit the result
	@$(BIN)/mira-stream demo

test: setup lint ## Run all tests that need pip alone
	@$(BIN)/python -m pytest --ignore tests/system --ignore tests/vllm --numprocesses logical --dist loadfile

build/node/.ready: tests/system/package.json
	@mkdir -p $(@D)
	@cp $< $(@D)/
	@npm install --prefix $(@D) --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

node: build/node/.ready ## Install the stores that tests/system runs on Node, below build/node

# Where npm is there already, from another repository, Debian's would push it out.
system-packages: ## Install what tests/system needs of ops/system-packages.txt, as root, with apt-get
	@apt-get update --quiet=2
	@DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends \
	  $$(sed 's/ *#.*//' ops/system-packages.txt | { command -v npm > /dev/null && grep -vxE 'nodejs|npm' || cat; }) > /dev/null

# Mounts are made in a namespace that ends with the tests.
test-system: setup node ## Run the tests that need ops/system-packages.txt
	@unshare $(if $(filter-out 0,$(shell id -u)),--map-root-user) --mount $(BIN)/python -m pytest tests/system

VLLM := build/vllm-venv
VLLM_TESTS := tests/vllm
$(VLLM)/.ready: $(VLLM_TESTS)/requirements.txt $(VLLM_TESTS)/name_distribution.py
	@echo "setting up $(VLLM): 2.5 GB, some minutes"
	@mkdir -p $(@D) && $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --disable-pip-version-check --only-binary :all: --no-deps -r $< > build/vllm-install.log 2>&1 \
	  || { tail -3 build/vllm-install.log; echo "vLLM is not tested: the packages of $< cannot be had here (build/vllm-install.log)."; \
	  echo "torch's CPU build may need an index of its own: set PIP_EXTRA_INDEX_URL. Python 3.11 to 3.14 on x86-64 Linux is needed."; exit 1; }
	@$(VLLM)/bin/python $(VLLM_TESTS)/name_distribution.py
	@touch $@

build/vllm-model/.ready: $(VLLM_TESTS)/tiny_model.py $(VLLM)/.ready
	@$(VLLM)/bin/python $< $(@D) > build/vllm-model.log 2>&1 || { tail -5 build/vllm-model.log; exit 1; }
	@touch $@

test-vllm: setup build/vllm-model/.ready ## Run the whole daemon against real vLLM servers on this machine's CPU
	@$(BIN)/python -m pytest $(VLLM_TESTS)

SEED ?= 1
KILLS ?= 100
STORE ?= local
chaos: setup ## Kill the daemon KILLS times, on STORE=local or s3, and count its records; figures to bench/results/
	@$(BIN)/python -m tests.chaos --seed $(SEED) --kills $(KILLS) --store $(STORE) $(if $(ROUND),--round $(ROUND),--record bench/results)

soak: setup ## Score a million records of 100,000 objects in one life (a quarter of an hour)
	@$(BIN)/python -m bench soak

SECONDS ?= 60
fuzz: setup ## Feed each reader of foreign bytes with what atheris makes up, SECONDS (60) for each
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[fuzz]'
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

lint: setup ## Layers, style, types
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/ruff check --no-cache --quiet .
	@$(BIN)/ruff format --no-cache --check --quiet .
	@$(BIN)/mypy --no-error-summary

format: setup ## Format the tree
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

bench: setup ## Measure, and write bench/results/
	@$(BIN)/python -m bench

dashboards: setup ## Write grafana/dashboards/ from their code
	@$(BIN)/python -m grafana

docs: setup ## Write the generated pages of docs/reference/
	@$(BIN)/python -c 'from mira_stream.daemon.config_reference import render_reference as r; print(r(), end="")' > docs/reference/config.md
	@$(BIN)/python -c 'from mira_stream.telemetry.metrics_reference import render_metrics as r; print(r(), end="")' > docs/reference/metrics.md
	@$(BIN)/python -m tests.tidy.cli_page docs/reference/cli.md

constraints: ## Pin what is installed in .venv now (no index address goes in)
	@$(BIN)/python -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' | sort -f > constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
