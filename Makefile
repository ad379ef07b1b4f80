# Every target that runs something goes through `setup`, which costs well under a second when nothing is to be done.

BIN := .venv/bin
TEST_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup jobs lint schema dashboards bench-plan test test-matrix test-long bench bench-scheduler bench-bindings demo clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## install what is needed: Debian packages (as root), .venv, QEMU 10.0 and helm in .cache
	@.ci/setup.sh

lint: setup ## ruff check, ruff format --check, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict pipeline scheduler

schema: setup ## write the JSON Schema of specs, docs/fleet.schema.json
	$(BIN)/kuaka schema > docs/fleet.schema.json

dashboards: setup ## write dashboards/json/, and the copies of dashboards and rules that the Helm chart carries
	$(BIN)/python -m dashboards

test: setup ## everything but the matrix and the long tests (at most 10 minutes on 2 cores); TEST_ARGS="-k name"
	@.ci/test.sh $(TEST_ARGS)

# With Ray's dashboard every node starts twice as slowly, so only the tests that need it have it.
jobs: setup
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,jobs]'

test-matrix: jobs ## the whole version/channel/codec matrix, and the long tests
	$(BIN)/python -m pytest -m "matrix or long" $(TEST_ARGS)

test-long: jobs ## the long tests alone, the scheduler's 10^6 steps among them
	$(BIN)/python -m pytest -m long $(TEST_ARGS)

bench: setup ## measure against QEMU's own multifd; BENCH_ARGS="..."
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-scheduler: setup ## what the scheduler costs: its core, its actor's ticks; BENCH_ARGS="..."
	$(BIN)/python -m benchmarks scheduler ticks $(BENCH_ARGS)

bench-bindings: setup ## what the bindings to real queues cost their caller; BENCH_ARGS="..."
	$(BIN)/python -m benchmarks bindings $(BENCH_ARGS)

bench-plan: setup ## plan 10 000 machines on 500 hosts; BENCH_ARGS="..."
	$(BIN)/python -m benchmarks plan $(BENCH_ARGS)

demo: setup ## migrate live guests and compare their RAM; DEMO_ARGS="--vms 4"; WATCH=1: with Prometheus and a report
	$(if $(WATCH),@$(BIN)/python -m dashboards.watch,$(BIN)/kuaka demo) $(DEMO_ARGS)

clean: ## remove what tools and builds left; .venv and .cache stay
	rm -rf build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -path ./.cache -prune -o -name __pycache__ -type d -exec rm -rf {} +
