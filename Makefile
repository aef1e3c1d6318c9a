# The project in one command each: `make` lists them. Needs Python 3.11 or newer with its venv module, and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BENCHMARKS := $(patsubst benchmarks/%.py,bench-%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))) \
	$(patsubst benchmarks/%/__main__.py,bench-%,$(wildcard benchmarks/*/__main__.py))
# two OpenMP threads on two busy cores train thirty times slower
ONE_THREAD := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup run test lint bench docs clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make bench-NAME   one of them: $(if $(BENCHMARKS),$(patsubst bench-%,%,$(BENCHMARKS)),none yet)"
	@echo "  ARGS='...' is handed on by run, test and bench-NAME; PYTHON=python3.11 chooses the interpreter of .venv"

setup: $(STAMP) ## create .venv with the pinned packages

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "'$(PYTHON)' is not Python 3.11 or newer with venv. On Debian: apt-get install python3 python3-venv; or set PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo 'Installing the pinned packages into .venv; the first time takes a few minutes.'
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet -c constraints.txt -e '.[dev]'
	@touch $@

run: $(STAMP) ## collect, load, then serve the dashboard
	$(BIN)/rooflake demo $(ARGS)

test: $(STAMP) ## every test
	@command -v chromium chromium-browser google-chrome >/dev/null || \
		echo "No chromium on PATH: the browser tests will be skipped. On Debian: apt-get install chromium fonts-dejavu-core"
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP) ## style, types, who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BENCHMARKS) ## every benchmark

bench-%: $(STAMP)
	@test -f benchmarks/$*.py -o -f benchmarks/$*/__main__.py || \
		{ echo "'$*' is not a benchmark. Known: $(patsubst bench-%,%,$(BENCHMARKS)). Add it as benchmarks/$*.py." >&2; exit 1; }
	$(ONE_THREAD) $(BIN)/python benchmarks/$*$(if $(wildcard benchmarks/$*.py),.py) $(ARGS)

docs: $(STAMP) ## write docs/ from the code again
	$(BIN)/python docs/generate.py

clean: ## remove .venv and caches; rooflake-data/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
