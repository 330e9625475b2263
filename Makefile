# make demo: set up, make the samples, fine-tune two real models. make test: set up, run the tests.
# make bench: hftl against transformers.Trainer, about an hour on an otherwise idle machine; called again it goes on.
# make bench-defaults: what the defaults are worth on small sets, about two hours on an idle machine; it goes on too.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench bench-defaults

demo: $(VENV)/installed samples/SOURCES.md
	$(BIN)/python recipes/demo.py

test: $(VENV)/installed $(VENV)/timm/installed samples/SOURCES.md
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed samples/SOURCES.md
	PYTHONPATH=.:tests $(BIN)/python -m benchmarks.bench

# Only these three use the network.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[audio,dev]'
	touch $@

# timm needs torchvision, which has no build for a CPU torch: out of the way, for tests/unit/test_timm.py alone.
$(VENV)/timm/installed: | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/timm timm==1.0.31 torchvision==0.28.0
	touch $@

samples/SOURCES.md: | $(VENV)/installed
	$(BIN)/hftl samples samples

bench-defaults: $(VENV)/installed samples/SOURCES.md
	PYTHONPATH=.:tests $(BIN)/python -m benchmarks.defaults.bench
