# Every target sets up what it needs: a virtual environment in .venv, made anew when it is missing, when
# pyproject.toml or constraints.txt changed, or when PYTHON names another version than the one it was made with.
PYTHON ?= python3
VENV := .venv
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# What the tests need holds what the demo needs, and torch besides: the demo is content with either.
STAMP := $(VENV)/.installed-$(VERSION)
DEMO := $(if $(wildcard $(STAMP)),$(STAMP),$(VENV)/.demo-$(VERSION))
WORKERS ?= 2
SEED ?= 0

.PHONY: demo study test test-slow test-resume benchmark lint format install clean

demo: $(DEMO)  ## the whole road on synthetic scans; the last line printed is the report
	$(VENV)/bin/jaxneuro demo --out runs/demo-$(SEED) --seed $(SEED) --workers $(WORKERS)

study: $(DEMO)  ## the paper's benchmark at its smallest: pre-train, fine-tune, test, three tables
	$(VENV)/bin/jaxneuro study --config configs/study_tiny.py --out runs/study-tiny --workers $(WORKERS)

test: $(STAMP)  ## the tests that run in minutes
	$(VENV)/bin/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal

test-slow: $(STAMP)  ## the long ones
	$(VENV)/bin/python -m pytest -m slow

test-resume: $(STAMP)  ## kill a run again and again: it learns the same
	$(VENV)/bin/python -m pytest tests/training/test_resume.py -s

benchmark: $(STAMP)  ## beside torch and MONAI, on a machine with nothing else to do: more than half an hour on two cores
	mkdir -p runs
	$(VENV)/bin/python tools/benchmark.py --rounds 3 --json runs/benchmark.json | tee runs/benchmark.md

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/shellcheck launch/*.sh .ci/run

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

install: $(STAMP)

$(STAMP): EXTRA := dev
$(VENV)/.demo-$(VERSION): EXTRA := prepare,report
$(STAMP) $(VENV)/.demo-$(VERSION): pyproject.toml constraints.txt
	@$(PYTHON) -c '' 2>/dev/null || { echo "found no interpreter $(PYTHON); try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else "jaxneuro needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d. Try: make PYTHON=python3.11" % v)'
	@echo "making $(VENV) anew: it is missing, or pyproject.toml, constraints.txt or PYTHON changed" >&2
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA)]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
