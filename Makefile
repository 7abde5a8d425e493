# make quickstart        the whole job on the embedded default: data, training, serving, benchmark
# make quickstart-smoke  the same recipe on less data
# make test              lint, types, all tests and the smoke run
# make test-fast         lint, types and the tests that need no engine
# make setup-local       only the environment (.venv)

VENV ?= .venv
RECIPE := recipes/smollm2-135m-eagle3.yaml
# The smoke run proves that every stage works; its draft is too small to be fast.
SMOKE := --set datagen.prompts.limit=48 --set datagen.prompts.magpie.count=8 --set datagen.max_tokens=64 \
	--set training.epochs=2 --set benchmark.requests=6 --set benchmark.max_tokens=32 \
	--set benchmark.rounds=1 --set 'benchmark.concurrency=[1]' --set benchmark.warmup_requests=1 \
	--set 'benchmark.depths=[]'

.PHONY: quickstart quickstart-smoke test test-fast check setup-local setup-test
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup-local: $(VENV)/.ready

$(VENV)/.ready: containers/cpu/setup.sh containers/cpu/requirements.txt pyproject.toml
	containers/cpu/setup.sh $(VENV)
	@touch $@

setup-test: $(VENV)/.ready-test

$(VENV)/.ready-test: $(VENV)/.ready tests/requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/requirements.txt
	@touch $@

quickstart: setup-local
	$(VENV)/bin/speculators run $(RECIPE)

quickstart-smoke: setup-local
	$(VENV)/bin/speculators run $(RECIPE) $(SMOKE)

check: setup-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test-fast: check
	$(VENV)/bin/pytest -m "not integration"

test: check
	$(VENV)/bin/pytest
	$(MAKE) quickstart-smoke
