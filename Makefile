# Regulars. Everything runs in .venv, which the first target makes; the second time that takes no time.
# Needs make and Python 3.11 or newer. Another Python: make PYTHON=python3.12 demo

PYTHON ?= python3
UV_VERSION := 0.13.9
SYNCED := .venv/.synced

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo up test check lint bench soak

help:
	@echo 'make demo    install, start Regulars, replay 69,659 real purchases, show what came of them, stay up'
	@echo 'make up      start Regulars on an embedded Postgres'
	@echo 'make test    every test that this machine can run'
	@echo 'make check   format, lint, types, boundaries and the tests without servers (about a minute)'
	@echo 'make bench   figures: events/s, redemption latency, rebuild'
	@echo 'make soak    1,000 simulator seeds and 20 crash rounds on each log (long)'

demo: $(SYNCED)
	@.venv/bin/regulars demo

up: $(SYNCED)
	@.venv/bin/regulars up

test: $(SYNCED)
	@.venv/bin/pytest

check: lint
	@.venv/bin/pytest -q -m 'not server and not slow'

lint: $(SYNCED)
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

bench: $(SYNCED)
	@.venv/bin/python -m bench

soak: $(SYNCED)
	@.venv/bin/python -m tests.soak

setup: $(SYNCED)

$(SYNCED): pyproject.toml uv.lock Makefile
	@command -v $(PYTHON) >/dev/null \
		|| { echo 'Regulars needs Python 3.11 or newer, and there is no $(PYTHON) here.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Regulars needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo 'This Python cannot make virtual environments. Install what is missing (Debian, Ubuntu: apt-get install python3-venv) and try again.' >&2; exit 1; }
	@.venv/bin/uv --version 2>/dev/null | grep -q '^uv $(UV_VERSION)\b' \
		|| { echo 'Making .venv ...' \
		&& $(PYTHON) -m venv --clear .venv \
		&& .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input 'uv==$(UV_VERSION)'; }
	@echo 'Installing what uv.lock names ...'
	@UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV= .venv/bin/uv sync --quiet --frozen --all-extras
	@touch $@
