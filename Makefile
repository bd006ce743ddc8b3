# Needs git, a POSIX shell and Python >= 3.11; `make` alone lists what there is.
# PYTHON=python3.12 chooses the interpreter, VENV=elsewhere the environment, JOBS=4 the number of test processes.

PYTHON ?=
VENV ?= .venv
JOBS ?= 2
GSM8K ?=
MISTAKES ?=
SETS ?=
TASKS ?=
OUT ?=
PY := $(VENV)/bin/python

# Results do not depend on the number of cores.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

PIP := $(PY) -m pip install --quiet --quiet --progress-bar off --constraint constraints.txt
# Stamps are written last: an environment without one is half-made.
BEGUN := $(VENV)/.begun-by-make
PACKAGE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test base bench clean

help: ## list the targets
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' Makefile

demo: $(PACKAGE) ## the whole method on a built-in task, offline, on CPU; ends with a report
	@$(VENV)/bin/traceward demo

test: $(DEV) ## ruff, mypy and all tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n $(JOBS)

base: $(PACKAGE) ## rebuild what ships with the package, or make a base of TASKS="swaps ..." in OUT=DIRECTORY
	$(PY) -m traceward.builtin.pretrain $(TASKS) $(if $(OUT),--out $(OUT))

bench: $(PACKAGE) ## run every benchmark (GSM8K=DIRECTORY, MISTAKES=FILE, SETS=DIRECTORY for those three); writes benchmarks/results/*.json
	@for script in benchmarks/[!_]*.py; do \
		data=; \
		if [ "$$script" = benchmarks/gsm8k.py ]; then data="$(GSM8K)"; [ -n "$$data" ] || continue; fi; \
		if [ "$$script" = benchmarks/real_labels.py ]; then data="$(MISTAKES)"; [ -n "$$data" ] || continue; fi; \
		if [ "$$script" = benchmarks/data.py ]; then data="$(SETS)"; [ -n "$$data" ] || continue; fi; \
		echo "$$script"; $(PY) "$$script" $$data || exit 1; \
	done

clean: ## remove the environment and caches; runs and results stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@if [ ! -d "$(VENV)" ] || [ -e "$(BEGUN)" ]; then rm -rf "$(VENV)"; \
	else echo "$(VENV) was not made by make: kept"; fi

# An update starts by removing the stamps, so that an interrupted one is made anew.
$(PACKAGE): pyproject.toml constraints.txt
	@if [ ! -e $(PACKAGE) ]; then $(create); fi
	@rm -f $(PACKAGE) $(DEV)
	@echo "installing torch (first time only, a few minutes)"
	@$(PIP) torch
	@echo "installing traceward and what it needs"
	@$(PIP) --editable .
	@touch $(PACKAGE)

$(DEV): $(PACKAGE)
	@rm -f $(PACKAGE) $(DEV)
	@echo "installing the tools for tests"
	@$(PIP) --editable '.[dev]'
	@touch $(PACKAGE) $(DEV)

define create
	if [ -d "$(VENV)" ] && [ ! -e "$(BEGUN)" ]; then \
		echo "$(VENV) must be made by make: found another environment; remove it, or set VENV=another-name" >&2; exit 1; \
	fi; \
	python="$(PYTHON)"; \
	for name in $${python:-python3.14 python3.13 python3.12 python3.11 python3 python}; do \
		if "$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			found="$$name"; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "python must be 3.11 or newer, with venv: found none; install one, or set PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$found"; \
	rm -rf "$(VENV)" && mkdir -p "$(VENV)" && touch "$(BEGUN)" && "$$found" -m venv "$(VENV)"
endef
