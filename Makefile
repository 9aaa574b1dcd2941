# `make test` and `make demo` set everything up first; a second call skips this.
# Choose the Python with PYTHON=..., and your own wheels with PIP_FIND_LINKS=FOLDER.

# The first of these that is a tested version; the pins were tested on 3.11, and with the fast tests on 3.12.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
	&& echo $$p && exit; done; echo python3)
VENV_PYTHON := .venv/bin/python
# One process per core, at most eight: each needs 1.5 GB and imports everything first.
PYTEST := $(VENV_PYTHON) -m pytest -n auto --maxprocesses 8 --dist worksteal
PYTEST_ARGS ?=
DEMO_ARGS ?=
# TORCH=cpu|cu126|cu128|cu130: that build of PyTorch. STACK=onedl: the maintained forks of MMDetection and mmcv.
SETUP_ARGS := $(if $(TORCH),--torch $(TORCH)) $(if $(STACK),--stack $(STACK))

.PHONY: help venv test test-all demo docs lint clean

help:
	@echo 'make venv      set up .venv; TORCH=cpu|cu126|cu128|cu130 and STACK=onedl choose its packages'
	@echo 'make test      the fast tests, some minutes in all; options through PYTEST_ARGS'
	@echo 'make test-all  all tests that this machine can run'
	@echo 'make demo      distil a small detector on generated images; options through DEMO_ARGS'
	@echo 'make docs      the pages as a site, in site/'
	@echo 'make lint      ruff, mypy, and which layer may import which'
	@echo 'make clean     remove .venv and caches (work_dirs and data stay)'

venv:
	@$(PYTHON) tools/setup_env.py $(SETUP_ARGS)

test: venv
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

test-all: venv
	$(PYTEST) $(PYTEST_ARGS)

demo: venv
	$(VENV_PYTHON) tools/demo.py $(DEMO_ARGS)

# The pages as a site, in site/; a warning is an error.
docs: venv
	$(VENV_PYTHON) -m pip install -q -r docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs build --strict

lint: venv
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	.venv/bin/lint-imports --no-logo --no-cache

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
