# `make` alone lists the targets. A change of requirements.txt or pyproject.toml installs .venv again.
PYTHON      ?= python3
UV          ?= uv
QUICKSTART  ?= train.py model=vae data=binarised_digits
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder --durations 10

SHELL     := bash
VENV      := .venv
BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP       := $(BIN)/python -m pip --disable-pip-version-check --no-input
PIP_QUIET := -qq
# PIN: the pin of one package. SELECT: the pins whose package names match (~) or do not match (!~) a pattern.
PIN        = $(shell sed -n 's/^\($(1)==[^ ;]*\).*/\1/p' requirements.txt)
SELECT     = awk '/^[a-z]/ {keep = $$1 $(1)} keep' requirements.txt
WANTED     = $(if $(TORCH_INDEX),!~ /^(torch|torchvision|triton|(nvidia|cuda)-.*)==/,~ /./)

# An environment that was installed with TORCH_INDEX remembers it.
TORCH_INDEX ?= $(shell cat $(VENV)/.torch-index 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-faults test-cluster benchmark benchmark-quick lint types format hooks requirements clean distclean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=python3.12      the interpreter of .venv (3.11+)"
	@echo "  TORCH_INDEX=URL        the package index of torch"
	@echo "  PYTEST_ARGS='-k name'  arguments for pytest"
	@echo "  ROWS='start epoch'     rows of the benchmark"
	@echo "  UV_ARGS=--upgrade      the newest requirements"

quickstart: $(INSTALLED) ## install, then train a VAE on digits
	@SECONDS=0; echo "$(BIN)/python $(QUICKSTART)"; $(BIN)/python $(QUICKSTART) && \
	echo "Installing took $$(cat $(INSTALLED)) s; training, evaluating and drawing took $$SECONDS s."

test: $(INSTALLED) ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-faults: $(INSTALLED) ## run the long tests of faults
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults -rP $(PYTEST_ARGS)

test-cluster: $(INSTALLED) ## run the tests on a real SLURM, which Debian has as slurm-wlm and munge
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster -rsP --durations 10 tests/sweeps

benchmark: $(INSTALLED) ## measure the speed as ratios to bare loops (10 minutes)
	@$(BIN)/python benchmarks $(ROWS)

benchmark-quick: $(INSTALLED) ## the same with less work (2 minutes)
	@$(BIN)/python benchmarks --quick $(ROWS)

lint: $(INSTALLED) ## check style and formatting (ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED) ## check types (mypy)
	@$(BIN)/mypy src $(wildcard train.py evaluate.py)

format: $(INSTALLED) ## format the code, apply ruff's fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

hooks: $(INSTALLED) ## install the pre-commit hooks
	@$(BIN)/pre-commit install

requirements: ## pin requirements.txt again (needs uv)
	@command -v $(UV) >/dev/null || { echo "make requirements: uv not found; python3 -m pip install uv" >&2; exit 1; }
	@$(UV) pip compile pyproject.toml --quiet --no-config --universal --python-version 3.11 --all-extras \
		--generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make requirements" $(UV_ARGS) --output-file requirements.txt

clean: ## remove caches and build products
	@rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	@rm -rf $(VENV)

# requirements.txt is complete, so pip gets --no-deps, and `pip check` proves it. It holds setuptools, which builds the
# one source distribution (antlr4) and this project.
$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "make: '$(PYTHON)' is not Python 3.11 or newer; name one with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: '$(PYTHON)' has no venv module; install it (Debian, Ubuntu: python3-venv) or set PYTHON=" >&2; exit 1; }
	@set -e -o pipefail; SECONDS=0; \
	install() { $(PIP) install $(PIP_QUIET) --no-deps "$$@"; }; \
	pinned() { install --no-build-isolation --use-pep517 --require-hashes "$$@"; }; \
	$(PYTHON) -m venv $(VENV); \
	if [ -n "$(TORCH_INDEX)" ]; then \
		echo "Installing into $(VENV), torch from $(TORCH_INDEX) (a few minutes) ..."; \
		install --index-url $(TORCH_INDEX) $(call PIN,torch) $(call PIN,torchvision); \
		echo "$(TORCH_INDEX)" > $(VENV)/.torch-index; \
	else \
		echo "Installing into $(VENV) (a few minutes; on Linux, the CUDA build of torch is a 3 GB download) ..."; \
	fi; \
	pinned -r <($(call SELECT,~ /^setuptools==/)); \
	pinned -r <($(call SELECT,$(WANTED))); \
	install --no-build-isolation --editable .; \
	broken=$$($(PIP) check) || { echo "$$broken" >&2; exit 1; }; \
	echo $$SECONDS > $@; \
	echo "Installed in $$SECONDS s."
