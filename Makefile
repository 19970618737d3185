# The two commands of the README are `make demo` and `make test`; both set up what is missing first. `make demo` needs
# Meta-World only; `make setup-simulators` adds SimplerEnv and LIBERO (docs/install.md).

PYTHON ?= $(shell tools/find_python.sh)
VENV := .venv
BIN := $(VENV)/bin
# The first torch to install; any build that pyproject.toml allows will do (TORCH="torch" takes the newest).
TORCH ?= torch==2.13.0

.PHONY: demo test check setup setup-simulators setup-dev clean

demo: setup
	$(BIN)/pizero demo

test: setup-simulators setup-dev
	$(BIN)/python -m pytest

check: setup-simulators setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.ready
	@tools/setup_rendering.sh "$(VENV)"

setup-simulators: setup $(VENV)/.ready-simulators
	@tools/setup_sapien.sh "$(VENV)"

setup-dev: setup $(VENV)/.ready-dev

$(VENV)/.ready: pyproject.toml tools/setup_venv.sh
	tools/setup_venv.sh "$(PYTHON)" "$(VENV)" "$(TORCH)"
	@touch $@

$(VENV)/.ready-simulators: $(VENV)/.ready tools/setup_simulators.sh
	tools/setup_simulators.sh "$(VENV)"
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
