# Two commands: `make demo` and `make test`. Both set up .venv on first use.
PYTHON ?= python3
VENV   ?= .venv
# Extra pip flags, e.g. PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" for torch without CUDA.
PIP_FLAGS ?=
OUT    ?= adamomentum-report
# pytest workers; the suite is sized for two cores.
JOBS   ?= 2
# Options for `make bench`, e.g. BENCH_FLAGS="--allocations 5".
BENCH_FLAGS ?=

BIN := $(VENV)/bin
# The pins also hold for what builds the native kernels, by the name that older and that newer versions of pip read.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
# --no-compile: Python compiles the few modules that are imported, pip would compile all, in half of its time.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_FLAGS) -c constraints.txt

# After a change of these everything is installed again.
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)

.PHONY: demo test test-slow bench examples docs lint types check clean

demo: $(VENV)/.demo ## train four optimizers on real images, write a report
	$(BIN)/adamomentum compare --out $(OUT)

test: $(VENV)/.test ## the test suite, without what is marked slow
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=20 -m "not slow"

test-slow: $(VENV)/.slow $(VENV)/.deepspeed
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=20 -m slow

bench: $(VENV)/.bench ## time and memory of a step beside peers, into docs/performance.md
	$(BIN)/adamomentum bench --out docs/performance.md $(BENCH_FLAGS)

examples: $(VENV)/.examples $(VENV)/.deepspeed ## run every example
	$(BIN)/python -m pytest -n $(JOBS) -m slow tests/test_examples.py

docs: $(VENV)/.docs ## the documentation site, into build/site
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs build/site

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror native/*

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test test-slow ## all that CI runs

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed, $(PYTHON) is " + sys.version.split()[0] + "; run: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# What each target needs beside the library.
EXTRAS_demo  := torch,study
EXTRAS_test  := torch,study,test,jax
EXTRAS_bench := torch,bench
EXTRAS_slow  := torch,study,ray,test,triton,jax,keras,tensorflow,examples,docs,test-slow
EXTRAS_examples := torch,test,examples
EXTRAS_docs  := torch,study,jax,keras,docs
EXTRAS_dev   := torch,study,test,dev

# DeepSpeed's setup imports torch: that comes first, and no environment of its own is made to build in.
$(VENV)/.deepspeed: constraints.txt | $(VENV)/.python
	$(INSTALL) torch setuptools wheel
	DS_BUILD_OPS=0 $(INSTALL) --no-build-isolation deepspeed
	@touch $@

$(addprefix $(VENV)/.,demo test bench slow examples docs dev): $(VENV)/.%: $(SOURCES) | $(VENV)/.python
	$(INSTALL) -e ".[$(EXTRAS_$*)]"
	@touch $@
