# Everything from a fresh clone: `make demo` runs the main job, `make mini` a small study, `make test` the tests. Each makes
# the environment it needs.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One process of tests for each core; the tests of a file, which share what they set up, stay together. Files come in the
# order of tests/conftest.py, the long ones first, not by how many tests they have.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo mini test test-slow test-long lint bench clean

demo: $(VENV)/installed
	$(BIN)/curate --pool demo --out runs/demo

# Recipes against each other: trains CLIPs on what each keeps of the demo pool. On 2 cores about half an hour.
mini: $(VENV)/installed-all
	$(BIN)/python -m jobs.mini run --out runs/mini

test: $(VENV)/installed-test
	$(PYTEST)

# The slow ones: kills at random points, training, every recipe's extra.
test-slow: $(VENV)/installed-all
	$(PYTEST) -m slow

# Minutes more than CI has: Spark, a small study, benchmarks at a tiny size, random kills of a Flink (KILLS=20 for more).
test-long: $(VENV)/installed-all
	$(PYTEST) -m long

lint: $(VENV)/installed-test
	$(BIN)/pip install --quiet --editable '.[lint]'
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/installed-all
	$(BIN)/python tests/benchmarks/run.py

$(VENV)/installed: setup.py
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]}: 3.11 to 3.13 is needed. Say make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/installed-all: $(VENV)/installed-test
	$(BIN)/pip install --quiet --editable '.[test,test-s3,laion2b,clusters,train,bench,mini]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
