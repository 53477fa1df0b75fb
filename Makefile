# Needs python3 (3.11 or newer) and make; everything else is installed into .venv.
PYTHON ?= python3
.DEFAULT_GOAL := help

.PHONY: help install up test bench soak
help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## make .venv with everything in it; its bin/quotagate is the command

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quotagate needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv || { echo "no virtual environment can be made: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch .venv/installed

up: install  ## start everything on this machine and print requests to paste (Ctrl-C stops it)
	.venv/bin/quotagate up --data .data --catalog examples/credits.toml

test: install  ## run every check and every test
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

soak: install  ## what takes long, hours of it: kills, losses, outages, planted faults, made-up requests (SEED=1 repeats)
	@for part in model faults kills losses away planted catalog openapi; do echo "== $$part, $$(date +%T)"; .venv/bin/python -m tests.soak.$$part $(if $(SEED),--seed $(SEED)) || exit 1; done

bench: install  ## measure, in ratios, beside what one would use instead
	.venv/bin/python -m bench
