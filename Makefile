# One vocabulary for people, hooks and CI. `make help` lists it.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin

# The environment is made again when what it is made from changes.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')

# A Python 3.11, wherever it is: PYTHON=/path/to/python3.11 overrides.
PYTHON ?= $(shell for name in python3.11 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo "$$name" && break; done)

# Without bytecode files heavy imports take 2 to 6 times as long, in every task.
unexport PYTHONDONTWRITEBYTECODE

# uv does not read pip's settings. Whoever made them for pip means the same for uv.
ifndef UV_FIND_LINKS
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
endif
endif
ifndef UV_DEFAULT_INDEX
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
endif
ifndef UV_INDEX
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX := $(PIP_EXTRA_INDEX_URL)
endif
endif
ifndef SSL_CERT_FILE
ifdef PIP_CERT
export SSL_CERT_FILE := $(PIP_CERT)
endif
endif

# The use case that `make demo` shows.
USECASE ?= flight_delays

# uv from the PATH, else the one that pip puts into the environment.
UV = $$(command -v uv || echo $(BIN)/uv)

.PHONY: help demo replay up down stack-local stack-up stack-down stack-test status dev new-usecase check-dags doctor test lint audit bench lock pages docs reference dags-readme clean .venv

help: ## Show this list
	@grep -E '^[.a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | \
		while IFS='|' read -r target text; do printf '  %-11s  %s\n' "$$target" "$$text"; done

.venv: $(STAMP) ## Create or update the environment from pyproject.toml and constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
		[ -n "$(PYTHON)" ] || { echo "Python 3.11 is needed: install it, or name it, make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
		if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV); \
		else "$(PYTHON)" -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; fi; \
	fi
	@command -v uv >/dev/null || [ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet uv
	@echo "installing what constraints.txt lists into $(VENV)"
	@$(UV) pip install --python $(BIN)/python --compile-bytecode --constraints constraints.txt \
		--editable '.[production]' --group dev
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(STAMP) ## Run the whole loop on real data through Airflow, and show what came of it
	@$(BIN)/nightshift demo --usecase $(USECASE)

replay: $(STAMP) ## Replay the demo's history night by night, and compare the loop with its first model
	@$(BIN)/nightshift replay --usecase flight_delays --picture docs/images/replay.svg

up: $(STAMP) ## Start PostgreSQL, Airflow and MLflow
	@$(BIN)/nightshift up

down: ## Stop every process that was started, and check that they are gone
	@if [ -x $(BIN)/nightshift ]; then $(BIN)/nightshift down; else echo "there is no environment, so nothing was started from it"; fi

status: $(STAMP) ## Show what exists and what runs
	@$(BIN)/nightshift status

stack-local: $(STAMP) ## Start the production stack without containers: real servers and workers on loopback
	@docker/install_package.sh redis-server "the queue of the stack"
	@$(BIN)/nightshift stack up

stack-up: $(STAMP) ## Start the production stack in containers
	@$(BIN)/nightshift stack secrets docker/secrets
	docker compose --file docker/compose.yaml up --detach --wait
	@echo "Airflow: http://127.0.0.1:$${NIGHTSHIFT_AIRFLOW_PORT:-8080}, user admin, password in docker/secrets/airflow_admin_password"

stack-down: ## Stop the production stack, in containers or without; its data stays
	@if [ -x $(BIN)/nightshift ]; then $(BIN)/nightshift stack down; fi
	@if [ -d docker/secrets ]; then docker compose --file docker/compose.yaml down; fi

stack-test: $(STAMP) ## Run the production stack's tests: the same nights, and every fault
	@docker/install_package.sh redis-server "the queue of the stack"
	$(BIN)/pytest tests/production tests/integration/faults tests/integration/ingestion/test_poison_partition.py

dev: $(STAMP) ## Start everything, and reload and check each file that is saved
	@$(BIN)/nightshift dev

new-usecase: $(STAMP) ## Write a new use case from a few answers; it runs at once, on made-up rows
	@$(BIN)/nightshift new-usecase

check-dags: $(STAMP) ## Tell in seconds what an edit would break: use cases, expectations, dbt models, DAG files
	@$(BIN)/nightshift check

doctor: $(STAMP) ## Check what Nightshift needs; each failure names its cure
	@$(BIN)/nightshift doctor

# In tests alone, bandit lets assertions, seeded numbers, and programs and queries of the test's own pass.
lint: $(STAMP) ## Style, types, which room may import which, known holes, and secrets
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive include dags plugins docker
	$(BIN)/bandit --quiet --recursive --skip B101,B311,B404,B603,B608 tests
	.ci/scan-secrets

audit: $(STAMP) ## Ask a vulnerability database about every pinned package; needs the network
	$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --no-deps --requirement constraints.txt

test: lint ## Lint, then every test but the faults of `make stack-test`
	@docker/install_package.sh chromium "which the end-to-end tests drive"
	@docker/install_package.sh redis-server "the queue of the stack"
	$(BIN)/pytest tests --ignore tests/production/test_faults.py --ignore tests/integration/faults --numprocesses logical --maxprocesses 4

bench: $(STAMP) ## Measure, and write benchmarks.json and docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks

pages: $(STAMP) ## Build the pages of Airflow's UI (plugins/pages) anew; needs Node 20.19 or later
	@$(BIN)/python -m nightshift.orchestration.console_api >/dev/null
	cd plugins/pages && npm ci --no-audit --no-fund && npm run types && npm run build

docs: $(STAMP) ## Build the docs as a site in .nightshift/site, without the network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open .nightshift/site/index.html"

reference: $(STAMP) ## Write docs/reference from the code
	@$(BIN)/python -m nightshift.cli.reference

dags-readme: $(STAMP) ## Write dags/README.md from the DAGs
	@$(BIN)/python -m nightshift.orchestration.readme flight_delays >/dev/null

# Without the local wheels, so that a pin for each platform is there; local builds of a release (2.13.0+cpu)
# satisfy its pin.
lock: $(STAMP) ## Resolve pyproject.toml anew into constraints.txt
	@{ echo "# Every package of the environment, pinned. Written by \`make lock\`; the reasons for"; \
	   echo "# the pins we chose by hand stand beside them in pyproject.toml."; \
	   UV_FIND_LINKS= $(UV) pip compile --quiet --python $(BIN)/python --upgrade --no-header --no-annotate \
	     --group dev --extra production pyproject.toml; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## Delete all state (.nightshift) and caches; refuses while services run
	@if [ -x $(BIN)/nightshift ] && $(BIN)/nightshift status --json | grep -q '"up": true'; then \
		echo "services are running: \`make down\` first" >&2; exit 1; fi
	@if [ -x $(BIN)/nightshift ] && $(BIN)/nightshift stack status | grep -q ' up, pid '; then \
		echo "the stack is running: \`make stack-down\` first" >&2; exit 1; fi
	rm -rf .nightshift .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dbt_project/target dbt_project/logs
	find dags dbt_project include plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
