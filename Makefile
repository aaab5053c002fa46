# make quickstart   sees the whole thing work on the tiny model
# make test         every law at a reduced count; make test-full: at full counts
#
# PYTHON is the Python that makes the environment, VENV where it is made (a path without
# spaces; the project's own folder may have them).

PYTHON ?= python3
VENV ?= .venv
PYTEST_OPTIONS ?= --numprocesses=2 --dist=loadgroup --no-loadscope-reorder

python = "$(VENV)/bin/python"
# Python compiles the modules that are imported, a tenth of what is installed.
pip = $(python) -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
sources = llmpq_jax tools tests examples
references = tests/model/test_golden.py tests/runtime/test_shipped_model.py

# Or each of the hundreds of processes that tests start would compile what it imports again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-full quick coverage lint format docs clean

help:
	@echo "make quickstart | test | test-full | quick | coverage | lint | format | docs | clean"

quickstart: $(VENV)/.installed
	$(python) -m llmpq_jax quickstart

# The last ones again, as users' programs are compiled: by all of XLA's optimisations.
test: $(VENV)/.installed-for-tests
	LLMPQ_TEST_PROFILE=quick $(python) -m pytest $(PYTEST_OPTIONS)
	LLMPQ_TEST_DURATIONS= LLMPQ_TEST_PROFILE=quick LLMPQ_TEST_OPTIMIZED=1 \
		$(python) -m pytest $(PYTEST_OPTIONS) $(references)

test-full: $(VENV)/.installed-for-tests
	LLMPQ_TEST_PROFILE=full $(python) -m pytest $(PYTEST_OPTIONS) --durations=20

quick: $(VENV)/.installed-for-tests
	LLMPQ_TEST_PROFILE=quick $(python) -m pytest $(PYTEST_OPTIONS) -m "not slow"

coverage: $(VENV)/.installed-for-tests
	LLMPQ_TEST_PROFILE=quick $(python) -m pytest $(PYTEST_OPTIONS) --cov --cov-report=term

lint: $(VENV)/.installed-for-lint
	$(python) -m ruff format --check $(sources)
	$(python) -m ruff check $(sources)
	$(VENV)/bin/lint-imports
	$(python) -m pyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.installed-for-lint
	$(python) -m ruff format $(sources)
	$(python) -m ruff check --fix $(sources)

docs: $(VENV)/.installed
	$(python) -m tools.write_format_docs
	$(python) -m tools.write_cli_docs
	$(python) -m tools.write_results
	$(python) -m tools.write_plan_picture

clean:
	rm -rf $(VENV) build/cmake dist .cache .coverage .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find $(sources) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@echo "making the environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit("llmpq-jax needs Python 3.11 or newer; name one as in: make PYTHON=python3.12 quickstart" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv "$(VENV)"

# The environment's Python is a link to an older file, so it is only asked to exist. Each
# installation builds the package, so what holds more also counts as what holds less.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing llmpq-jax and what it needs (a few minutes the first time)"
	$(pip) --editable .
	@touch $@

$(VENV)/.installed-for-tests: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing llmpq-jax, what it needs, and what tests need (a few minutes the first time)"
	$(pip) --editable ".[test]"
	@touch $@ $(VENV)/.installed

# The linters check the tests too, so they need what the tests import.
$(VENV)/.installed-for-lint: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(pip) --editable ".[test,lint]"
	@touch $@ $(VENV)/.installed-for-tests $(VENV)/.installed
