.DEFAULT_GOAL := help
.PHONY: help setup lock lint type test bench bench-forecast bench-fleet fuzz demo down fleet fleet-down clean

INVENTORY ?= inventories/local
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make the locked environment in .venv
	@scripts/setup

lock: setup ## Resolve pyproject.toml anew into requirements.lock
	@scripts/lock

lint: setup ## Check Python, YAML and Ansible
	ruff check .
	ruff format --check .
	yamllint --strict .
	ansible-lint --offline --profile production --strict

type: setup ## Check the types
	mypy

test: setup ## Run all tests
	@scripts/test

bench: setup ## Print the benchmarks' tables (minutes)
	@set -e; for name in bridge store data_plane train_local; do python "benchmarks/$$name.py"; done

bench-forecast: setup ## How good forecasts are on real recordings, beside baselines and ICOS-FL's algorithm (half an hour)
	@scripts/bench-forecast

bench-fleet: setup ## The same of deployments (Docker, an hour)
	@set -e; for name in starts converge; do python "benchmarks/$$name.py"; done

fuzz: setup ## Send the bridge's reader spoilt requests for SECONDS (60), guided by what they reach
	@scripts/fuzz $(or $(SECONDS),60)

demo: setup ## A working federation on this machine: deploy, collect, train, forecast
	@icosfl -i "$(INVENTORY)" up
	@icosfl -i "$(INVENTORY)" watch --until-ready
	@icosfl -i "$(INVENTORY)" train
	@icosfl -i "$(INVENTORY)" forecast

down: setup ## Stop the federation; its data stays
	@icosfl -i "$(INVENTORY)" down

fleet: setup ## Bare Debian hosts in containers, kept (HOSTS=3 RUNTIME=systemd|docker): what site.yml can be tried on
	@scripts/fleet up --hosts $(or $(HOSTS),3) --runtime $(or $(RUNTIME),systemd)

fleet-down: setup ## Remove the hosts that `make fleet` made
	@scripts/fleet down

clean: ## Stop the federation and leave nothing behind
	@[ ! -x $(BIN)/icosfl ] || icosfl -i "$(INVENTORY)" reset --yes
	@[ ! -d .state/fleet ] || scripts/fleet clean
	@rm -rf .venv .state .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .ansible
	@find . -name __pycache__ -prune -exec rm -rf {} +
