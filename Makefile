# EMS-FL: every command a stranger needs. A first call makes .venv and installs requirements.txt into it.
# Settings: PYTHON (3.11 to 3.13; the newest that is there and can make a .venv), PIP_ARGS (for every pip call, e.g. an own index), ARGS (passed on to the run or to pytest),
# JOBS (processes that run tests).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-real test check format unit test-deploy test-docker up run-up down stop clean

# One that only has a name (a shim of a version manager) or lacks its venv module is passed over.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11; do \
  "$$name" -c 'import ensurepip, venv' 2>/dev/null && command -v "$$name" && exit; done; command -v python3)
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ems-fl-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_ARGS)
SOURCES := benchmarks cli client demo moe scenario server sim strategy tests
ARGS ?=
JOBS ?= 2

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install what requirements.txt pins

# torch comes first: where the machine offers a build of its own for exactly this version, the rest keeps it.
$(STAMP): requirements.txt server/machine/environment.py
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "EMS-FL needs Python 3.11, 3.12 or 3.13, found '$(PYTHON)'; name one: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)" \
	  || { echo "making $(VENV) failed; on Debian and Ubuntu the package python3-venv is needed" >&2; exit 1; }
	$(PIP) "$$(grep '^torch==' requirements.txt)"
	$(PIP) -r requirements.txt
	"$(BIN)/python" -m server.machine.environment
	@touch "$@"

demo: $(STAMP) ## run the main job in simulation, three to five minutes on two cores (ARGS="-c conf/smoke.toml")
	@"$(BIN)/python" -m server.launch $(ARGS)

demo-real: $(STAMP) ## the same with a real language model: 93 MB once, about ten minutes (ARGS="--capture low")
	@PIP_ARGS="$(PIP_ARGS)" "$(BIN)/python" -m cli.demo_real $(ARGS)

test: check unit ## ruff, mypy and every test but those of `make test-deploy` and `make test-docker`

check: $(STAMP) ## ruff and mypy
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy" $(SOURCES)

unit: $(STAMP) ## the tests alone, two files at a time (ARGS="-k grid", JOBS=0 for one after another)
	"$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile --ignore tests/deployment $(ARGS)

format: $(STAMP) ## let ruff put imports and layout in order
	"$(BIN)/ruff" check --select I --fix .
	"$(BIN)/ruff" format .

test-deploy: $(STAMP) ## real Flower processes on loopback: Ray's workers; certificates, keys, own data; links that go dark
	"$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile tests/deployment $(ARGS)
	"$(BIN)/python" -m pytest tests/deployment/dark_links.py $(ARGS)

up: ## start the deployment of docker/compose.yml in containers: TLS, keys, four nodes with data of their own (SKY=6: behind a sky that is six times as fast)
	@sh docker/compose.sh up -d --build $(ARGS)
	@echo "now: make run-up, which runs conf/containers.toml there (ARGS=\"merge.max-merges=8\")"

run-up: ## run conf/containers.toml on what `make up` started
	@sh docker/compose.sh exec server python -m cli run --superlink superlink:8000 \
	  --root-certificates /tls/ca.crt conf/containers.toml $(ARGS)

down: ## end what `make up` started; keys, data and runs stay in their volumes (ARGS=-v takes them too)
	@sh docker/compose.sh down $(ARGS)

test-docker: $(STAMP) ## the deployment run in containers; starts and ends a Docker engine where none runs (root)
	@PYTHON="$(BIN)/python" PIP_ARGS="$(PIP_ARGS)" sh docker/test.sh

stop: ## end the SuperLink that a plain `flwr run` of this checkout left behind
	@if [ -x "$(BIN)/python" ]; then "$(BIN)/python" -m server.machine.environment --stop; fi

clean: stop ## remove .venv, Flower's home and the caches; runs/ stays
	rm -rf "$(VENV)" .flwr .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
