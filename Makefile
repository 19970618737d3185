# The two commands of the README are `make demo` and `make test`; both set up what is missing first.

PYTHON ?= $(shell tools/find_python.sh)
VENV := .venv
BIN := $(VENV)/bin
# The first torch to install; any build that pyproject.toml allows will do (TORCH="torch" takes the newest).
TORCH ?= torch==2.13.0

.PHONY: demo test check setup setup-dev clean

demo: setup
	$(BIN)/pizero demo

test: setup-dev
	$(BIN)/python -m pytest

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.ready
	@tools/setup_rendering.sh "$(VENV)"

setup-dev: setup $(VENV)/.ready-dev

$(VENV)/.ready: pyproject.toml
	tools/setup_venv.sh "$(PYTHON)" "$(VENV)" "$(TORCH)"
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
