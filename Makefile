# `make help` lists what one can do. Every target sets itself up first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What runs; and with it what tests and builds.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
# A lock names everything: nothing is left to be resolved.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps
# Some images forbid bytecode files: every start would then compile all it imports, which takes 2 s of CPU more.
export PYTHONDONTWRITEBYTECODE =
ARGS ?=
# Test files side by side: most of their time goes into waiting for real processes.
WORKERS ?= 3

.PHONY: help install develop demo up test soak compose-test kubernetes-test prometheus-3-test bench capacity audit lock lowest rules-report screenshots pictures check lint types rules dashboards reference kubernetes drift secrets clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(INSTALLED) ## make .venv with the tool `driftback`

develop: $(INSTALLED_DEV) ## add what tests and builds need

# Debian splits venv out of python3; as root it is installed here, else the message says what to do.
$(INSTALLED): pyproject.toml client/pyproject.toml requirements.lock requirements-build.lock
	@$(PYTHON) -c 'import sys; sys.exit("Driftback needs Python 3.11 or newer; name one with PYTHON=...") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else echo "Python lacks the venv module: sudo apt-get install python3-venv" >&2; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --no-compile --require-hashes --requirement requirements-build.lock --requirement requirements.lock
	$(INSTALL) --no-compile --no-build-isolation --editable client --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.lock
	$(INSTALL) --require-hashes --requirement requirements-dev.lock
	@touch $@

demo: install ## run everything with traffic, break a persona, wait for your click
	$(BIN)/driftback up --demo $(ARGS)

up: install ## run everything, without traffic
	$(BIN)/driftback up $(ARGS)

test: develop ## run every test, with real Prometheus, Alertmanager, PostgreSQL and Chromium
	$(BIN)/python -m tests.support.install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(COVERAGE) $(ARGS)

soak: develop ## run the long fault and fuzz runs (tens of minutes)
	$(BIN)/python -m tests.support.install
	$(BIN)/pytest -m soak $(ARGS)

compose-test: develop ## run docker-compose.yml on stand-in images (root; Debian's docker.io; part of make soak)
	$(BIN)/python -m tests.support.install
	$(BIN)/pytest -m soak tests/deploy/test_compose_stack.py $(ARGS)

kubernetes-test: develop ## run deploy/kubernetes on a cluster of its own (root; built by Go, once; part of make soak)
	$(BIN)/python -m tests.support.install
	$(BIN)/pytest -s -m soak tests/deploy/test_kubernetes_cluster.py $(ARGS)

prometheus-3-test: develop ## run the tests of the rules with Prometheus 3 (built by Go, once; part of make soak)
	$(BIN)/python -m tests.support.install
	$(BIN)/pytest -s -m soak tests/rules/test_prometheus_3.py $(ARGS)

bench: develop ## measure against peers in one run; writes build/bench.json
	$(BIN)/python -m benchmarks $(ARGS)

capacity: develop ## measure series, samples, memory, disk and rule cost of a persona and version
	$(BIN)/python -m benchmarks.capacity

# Strict: a version that the service knows nothing of is a failure, not a pass.
audit: ## ask a vulnerability service about every locked version (fails where it cannot be reached)
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements-dev.lock \
	  --requirement requirements-build.lock $(ARGS) || { \
	  echo "audit: not every locked version could be looked up, or one is vulnerable: see above" >&2; exit 1; }

# Versions that are locked already stay; UPGRADE=--upgrade takes the newest.
UPGRADE ?=
COMPILE = build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-package driftback \
  --custom-compile-command 'make lock' $(UPGRADE)
lock: build/uv/bin/uv ## write the locks (what runs, what builds, all) from pyproject.toml, with hashes
	$(COMPILE) --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra dev --extra bench --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --group build --constraint requirements-dev.lock --output-file requirements-build.lock

# Chosen for what they touch: both services over HTTP, storage, tokens, pages, commands, rules.
LOWEST_TESTS ?= tests/exporter/http/test_connection.py tests/exporter/test_refusals.py tests/exporter/metrics/test_render.py \
  tests/config_rollback/web/test_api_ops.py tests/config_rollback/delivery/test_delivery.py tests/config_rollback/web/test_pages.py \
  tests/config_rollback/auth/test_rate_limits.py tests/config_rollback/test_cli.py tests/config_rollback/personas/test_config_schema.py \
  tests/config_rollback/auth tests/driftback_server/stack/test_supervisor.py
lowest: build/uv/bin/uv ## run tests with the lowest version of each dependency that pyproject.toml allows
	build/uv/bin/uv pip compile pyproject.toml --quiet --resolution lowest-direct --python $(PYTHON) --output-file build/lowest.txt
	$(PYTHON) -m venv build/lowest
	build/uv/bin/uv pip install --quiet --python build/lowest/bin/python --constraint build/lowest.txt --editable client --editable '.[dev]'
	build/lowest/bin/python -m tests.support.install
	build/lowest/bin/pytest -n $(WORKERS) --dist loadfile $(LOWEST_TESTS) $(ARGS)

build/uv/bin/uv:
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

rules-report: develop ## print how exact the KPI are and how the drift alerts behave; writes build/rules.json
	$(BIN)/python -m rules_report $(ARGS)

screenshots: develop ## write build/screenshots: every page in every state, phone and desktop, light and dark
	$(BIN)/python -m tests.support.install
	$(BIN)/python -m tests.support.screenshots

pictures: develop ## make docs/pictures from the running demo (builds Alertmanager's page with Go, once)
	$(BIN)/python -m tests.support.install
	$(BIN)/python -m tests.grafana.pictures

# Branch coverage of all processes. Its floor is in pyproject.toml.
check: COVERAGE = --cov
check: lint types drift test ## all that CI runs

lint: develop ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: develop ## mypy --strict
	$(BIN)/mypy

rules: develop ## write rules/*.yml from their templates
	$(BIN)/python -m rules.build

dashboards: develop ## write grafana/generated from the code
	$(BIN)/python -m grafana.build

reference: develop ## write docs/reference.md from the code
	$(BIN)/python -m docs.build

kubernetes: develop ## write the operator's objects in deploy/kubernetes from the rule files
	$(BIN)/python -m deploy.build

drift: develop ## compare the generated files with their templates
	$(BIN)/python -m rules.build --check
	$(BIN)/python -m grafana.build --check
	$(BIN)/python -m docs.build --check
	$(BIN)/python -m deploy.build --check

# Compose mounts each file alone, so the folder keeps others out and the containers' user can read the files.
SECRETS := jwt_secret ingest_token service_token alertmanager_token grafana_admin_password \
  postgres_password postgres_owner_password postgres_app_password postgres_auditor_password
DATABASE = postgresql+psycopg://driftback_$(1):%s@postgres:5432/driftback
secrets: ## make ./secrets for docker compose (keeps what is there)
	@mkdir -p secrets && chmod 700 secrets
	@for name in $(SECRETS); do [ -s secrets/$$name ] || head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' >secrets/$$name; done
	@[ -s secrets/database_url ] || printf '$(call DATABASE,app)' "$$(cat secrets/postgres_app_password)" >secrets/database_url
	@[ -s secrets/database_owner_url ] || printf '$(call DATABASE,owner)' "$$(cat secrets/postgres_owner_password)" >secrets/database_owner_url
	@chmod 444 secrets/*

clean: ## remove what the other targets made (not the state of `make up`)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
