# make setup   create .venv/ with everything in it
# make demo    see the main job done, on data that come with the dependencies
# make test    linter, types, import rules, tests
# make lint    the first three

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: setup demo test lint
setup: $(READY)

demo: setup
	@$(VENV)/bin/assay demo

# One thread and two processes: half the time of the reverse, on two cores.
test: lint
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

lint: setup
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

# Torch comes first, on its own: it is by far the largest, and a connection that breaks later
# need not fetch it again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "expected Python 3.11 or newer as $(PYTHON); name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory install-venv
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch==2.13.0
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[test,baselines,s3,ray]'
	@touch $@

.PHONY: install-venv
install-venv:
	@test "$$(id -u)" = 0 || \
		{ echo "$(PYTHON) cannot make virtual environments; run: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "installing python3-venv" >&2
	@apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
