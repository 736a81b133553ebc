# The whole project in three words: setup builds the environment, study runs the embedded study, test runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY_DIR ?= studies/demo-overview
export OMP_NUM_THREADS ?= 1

.PHONY: setup study test quick long lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

study: setup
	$(BIN)/python -m nepa_scale.data.prepare digits root=data
	$(BIN)/python sweeps/launch.py grid=overview predict=true study=demo study_dir=$(STUDY_DIR)
	@$(BIN)/python analysis/report.py $(STUDY_DIR)

# Most of the quick tests keep one core busy. The others wait for ranks, launchers and Slurm a third of their time, so
# three of them keep two cores busy. tests/conftest.py puts the files that take longest first, and a worker takes the
# next file in that order.
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

quick: setup
	$(PYTEST) -m "not slow" --numprocesses auto --maxprocesses 4

test: setup
	$(PYTEST) -m "not long" --numprocesses 3

# What it holds says CONTRIBUTING.md.
long: setup
	$(PYTEST) -m long --numprocesses 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Leaves data, studies and runs: they take long to make again.
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . \( -path ./data -o -path ./studies -o -path ./runs \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
