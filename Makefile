# Two commands: `make demo` renders the demo library and serves its website, `make test` runs every test.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
SERVE ?= 1
RUN := $(VENV)/bin/python

.PHONY: demo test lint release-check benchmark env clean

demo: env
	$(RUN) -m builder render demo
	$(RUN) -m builder portal build/library/demo
ifeq ($(SERVE),1)
	$(RUN) -m builder serve build/portal --port $(PORT)
else
	@echo "built build/portal; serve it with: $(RUN) -m builder serve"
endif

# A process a core, each with one thread: two threads on one operation stall when another process takes a core.
test: env
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --dist loadfile

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Wheel and sdist, the wheel alone in an empty environment, licences, sizes.
release-check: env
	$(RUN) -m builder release-check --out dist

benchmark: env
	$(RUN) -m pytest benchmarks -q -s --benchmark-disable-gc

# The Nu Html Checker, for the test of the pages' HTML; it is skipped without. Needs npm, and Java to run.
build/tools/node_modules/vnu-jar:
	npm install --silent --no-audit --no-fund --prefix build/tools vnu-jar@26.9.27

# The runtime for graphics cards of the page "Try it": portal --webgpu build/tools/node_modules/onnxruntime-web/dist
build/tools/node_modules/onnxruntime-web:
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix build/tools onnxruntime-web@1.22.0

env: $(VENV)/.made

# PyTorch first and pinned: everything after finds it there.
$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[build,test,dev]"
	touch $@

clean:
	rm -rf build $(VENV)
