# An environment in the checkout itself, so that no two checkouts ever run each other's code.
PYTHON ?= python3
BIN := .venv/bin
# The mark carries the checkout's place: a copy of the folder makes its own.
INSTALLED := .venv/installed-$(shell pwd -P | cksum | cut -d ' ' -f 1)
# A process per core, but no more than memory bears: each holds torch, and some start Ray.
TESTS := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# Whatever the shell says: without bytecode on disk each process compiles all of torch.
unexport PYTHONDONTWRITEBYTECODE

MINUTES ?= 1

.PHONY: fuzz lower-bounds newest setup demo test deploy-demo test-wire test-package docs check generated mutants fix

setup: $(INSTALLED)

# uv links files from its cache: the first checkout loads 6 GB, each further one takes seconds and
# no room. Where uv finds no index, pip may: it also reads pip.conf.
# The mark is written last: an installation that was cut off is done again.
$(INSTALLED): pyproject.toml Makefile
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[dev]" \
	  || $(BIN)/pip install --quiet --progress-bar off --editable ".[dev]"
	touch "$@"

demo: setup
	$(BIN)/fl-defense run quickstart

test: setup
	$(TESTS)

# A SuperLink and three SuperNodes on this machine: docs/deployment.md.
deploy-demo: setup
	deploy/demo.sh

# The same and a hostile client over the wire, compared with a simulation.
test-wire: setup
	$(BIN)/pytest -m wire

# The wheel in a fresh environment outside the checkout: quickstart, report, a browser's picture.
test-package: setup
	$(BIN)/pytest -m package

# The pages as a site in results/site; a link that leads nowhere fails. In an environment of its own.
docs: setup
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv/docs
	$(BIN)/uv pip install --quiet --python .venv/docs/bin/python "mkdocs-material>=9.5" \
	  "mkdocstrings[python]>=0.27"
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --strict --quiet

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m simulations.cli.generate --check
	$(TESTS)

# Breaks the code in known places, one at a time, and prints which breaks no test notices.
mutants: setup
	$(BIN)/python -m tests.mutants

# Replies, files and command lines from anybody, for so many minutes: tests/fuzz_targets.py.
fuzz: setup
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)
	EVERY_FAULT=1 $(BIN)/pytest tests/simulations/federation/test_faulty_disk.py

# The oldest versions that pyproject.toml allows, in an environment of their own, and the fast tests.
lower-bounds: setup
	$(PYTHON) -m venv .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
	  --editable ".[dev]"
	.venv-lowest/bin/pytest --numprocesses auto --maxprocesses 4 -m "not wire and not ray"

# The newest versions that pyproject.toml allows, Flower's above all, and what touches Flower.
newest: setup
	$(PYTHON) -m venv .venv-newest
	$(BIN)/uv pip install --quiet --upgrade --python .venv-newest/bin/python --editable ".[dev]"
	.venv-newest/bin/pytest --numprocesses auto --maxprocesses 4 \
	  tests/fl_defense/flower tests/simulations/engines tests/simulations/federation

fix: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The JSON Schema, configs/defenses and the tables in README and docs, from the code.
generated: setup
	$(BIN)/python -m simulations.cli.generate
