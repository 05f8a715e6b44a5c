# Each target installs what it needs. Wanted on the machine: git, make, Python 3.11 or newer, a
# package index. uv is installed into .cache/uv when it is not on PATH.

PYTHON ?= python3
DEMO := build/flight-delays

ifeq ($(shell command -v uv),)
UV := .cache/uv/bin/uv
export PATH := $(CURDIR)/.cache/uv/bin:$(PATH)
endif

# Packages are compiled once and not in each of the many processes, wherever this is set.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo showcase test test-all test-fast lint stages docs bench bench-scale

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(UV) ## Render the default project into build/flight-delays and run its demo
	rm -rf $(DEMO)
	uv run --only-group render cookiecutter . --no-input --default-config --output-dir build
	cd $(DEMO) && uv run flight-delays demo

FAST ?=
showcase: $(UV) ## Replay 2013 against build/flight-delays, faults and all; writes its reports/showcase.html (FAST=--fast)
	test -d $(DEMO) || uv run --only-group render cookiecutter . --no-input --default-config --output-dir build
	uv run --only-group showcase python -m showcase $(DEMO) $(FAST)

WORKERS ?= 2
test: $(UV) ## Run the tests: renders projects and drives them through their own commands
	uv run pytest -n $(WORKERS) --dist loadgroup -m "not rare"

test-all: $(UV) ## Run every test, also what is slow and rarely broken, such as the showcase
	uv run pytest -n $(WORKERS) --dist loadgroup

test-fast: $(UV) ## Run the tests of rendering, hooks and linting only (under 90 s)
	uv run pytest -n $(WORKERS) -m "not slow and not rare"

# The package holds no template marks, so it is linted in place; caches stay out of that folder, as
# cookiecutter would render them. Types and rooms are checked in a project: uv cannot work in a template.
PACKAGE := {{cookiecutter.project_slug}}/packages/mlops-loop
LINTED := build/lint/flight-delays
lint: export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
lint: $(UV) ## Check style, types and rooms of the template's own code and of the package
	uv run ruff check . '$(PACKAGE)'
	uv run ruff format --check . '$(PACKAGE)'
	uv run mypy
	rm -rf $(LINTED)
	uv run --only-group render cookiecutter . --no-input --default-config --output-dir build/lint
	cd $(LINTED) && uv run mypy && uv run mypy --config-file packages/mlops-loop/pyproject.toml
	cd $(LINTED) && uv run lint-imports && uv run lint-imports --config packages/mlops-loop/pyproject.toml

stages: $(UV) ## Write the modules that each stage depends on into the project's dvc.yaml
	uv run python tests/test_stages.py

docs: $(UV) ## Build the documentation site into site/
	uv run --only-group docs mkdocs build --strict

ROWS ?= 1000000
BENCH ?=
BENCHED := build/bench/flight-delays
bench: $(UV) ## Measure server, batch, monitor and large tables against what one would use instead (BENCH=--quick)
	rm -rf $(BENCHED)
	uv run --only-group render cookiecutter . --no-input --default-config --output-dir build/bench
	cd $(BENCHED) && uv run dvc repro && uv run flight-delays promote
	cd $(BENCHED) && uv run --with psutil python $(CURDIR)/benchmarks/serving.py flight_delays $(BENCH)
	cd $(BENCHED) && uv run python $(CURDIR)/benchmarks/batch.py flight_delays --rows $(ROWS)
	cd $(BENCHED) && uv run python $(CURDIR)/benchmarks/monitor.py flight_delays --rows $(ROWS)
	cd $(BENCHED) && uv run python $(CURDIR)/benchmarks/log.py --rows $(ROWS)
	cd $(BENCHED) && OMP_NUM_THREADS=1 uv run python $(CURDIR)/benchmarks/segments.py flight_delays
	cd $(BENCHED) && uv run python $(CURDIR)/benchmarks/partitions.py flight_delays
	cd $(BENCHED) && BUNDLE=build/bundle uv run python $(CURDIR)/benchmarks/scale.py flight_delays --rows $(ROWS)
	$(MAKE) bench-scale

SIZES ?= 1000 100000 1000000
SCALED := build/bench-scale/flight-delays
COSTS := $(PACKAGE)/src/mlops_loop/onboarding/capacity/unit_costs.json
bench-scale: $(UV) ## Measure what `capacity` reckons with, and how stages grow (SIZES="1000 100000 1000000 10000000")
	rm -rf $(SCALED)
	uv run --only-group render cookiecutter . --no-input --default-config --output-dir build/bench-scale
	cd $(SCALED) && uv run dvc repro
	cd $(SCALED) && BUNDLE=build/bundle uv run python $(CURDIR)/benchmarks/unit_costs.py flight_delays '$(CURDIR)/$(COSTS)' $(CURDIR)/docs/scaling.md $(SIZES)

.cache/uv/bin/uv:
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/python -m pip install --quiet uv
