# make run    everything from a bare machine to the comparison table and the report
# make test   everything from a bare machine to the tests' summary
# Needs Python 3.11 or newer and make; nothing else. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The engine is offline from any model hub unless the user asks for it.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help install run test lint types check lab serve clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo 'make install   the environment in $(VENV)'
	@echo 'make lab       JupyterLab with the tutorials'
	@echo 'make serve     the dashboard on http://127.0.0.1:5006'
	@echo 'make check     lint and types'
	@echo 'make clean     remove the environment and build files'

# The CPU kernels are compiled by the install, and again when their sources change.
NATIVE := $(wildcard kernels/*/*.cpp kernels/*/*.h) kernels/native/build.py

$(STAMP): pyproject.toml setup.py constraints.txt $(NATIVE)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it or run make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab,app,triton,dev]"
	@touch $@

install: $(STAMP)

run: $(STAMP)
	$(BIN)/workbench demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/python tests/packaging/check_types.py

check: lint types

lab: $(STAMP)
	$(BIN)/workbench lab

serve: $(STAMP)
	$(BIN)/workbench serve

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
