# One environment per content of pyproject.toml, kept outside the checkout: torch alone is 6 GB.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fl-defense
PYTHON ?= python3
KEY := $(shell cat pyproject.toml Makefile | cksum | tr ' ' '-')
VENV := $(CACHE)/venv-$(KEY)
BIN := .venv/bin
# A process per core, but no more than memory bears: each holds torch, and some start Ray.
TESTS := $(BIN)/pytest --numprocesses auto --maxprocesses 4

.PHONY: setup demo test deploy-demo test-wire check fix

setup: $(VENV)/installed
	@test "$$(readlink .venv)" = "$(VENV)" || ln -sfn "$(VENV)" .venv
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .

# The mark is written last: an installation that was cut off is done again.
$(VENV)/installed:
	$(PYTHON) -m venv --clear "$(VENV)"
	"$(VENV)/bin/pip" install --progress-bar off hatchling editables --quiet
	"$(VENV)/bin/pip" install --progress-bar off --quiet --editable ".[dev]"
	touch "$@"

demo: setup
	$(BIN)/fl-defense run configs/scenarios/quickstart.yaml

test: setup
	$(TESTS)

# A SuperLink and three SuperNodes on this machine: docs/deployment.md.
deploy-demo: setup
	deploy/demo.sh

# The same and a hostile client over the wire, compared with a simulation.
test-wire: setup
	$(BIN)/pytest -m wire

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TESTS)

fix: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
