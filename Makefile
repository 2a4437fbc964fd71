# Every way to build, check and try qworker. `make help` lists them; CI runs the same targets (.ci/run).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# More arguments for pytest: make test ARGS="-k embedded -x"
ARGS   ?=
# How many test processes at once. Most tests wait for servers and processes, so three pay even on two cores; more would
# disturb those that measure.
JOBS   ?= 3
# The peers of `make bench`: the three fastest at draining, and the fastest at a round trip.
FASTEST ?= ardiq tarsk mayu huey
COMMA  := ,
SPACE  := $(subst ,, )

.DEFAULT_GOAL := help
.PHONY: help setup demo check format test test-all chaos torture soak proof points sim sim-flaws test-stdlib models mutants fuzz nightly bench bench-peers bench-kill bench-stop bench-guard clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything in it (once, and again when pyproject.toml changes)
	@echo "ready: . $(BIN)/activate, then qworker --help"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "qworker needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing)." \
	       "Name another one: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.13" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "cannot make $(VENV): on Debian and Ubuntu, install the package python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) (about a minute, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,embedded,uvloop]'
	@touch $@

demo: $(STAMP) ## Watch tasks run, hang, get stopped and killed, and the ledger add up (no Redis needed)
	$(BIN)/qworker demo

check: $(STAMP) ## Lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Bring the code into the one format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

test: $(STAMP) ## The quick suite: all but what is marked slow (no Redis needs to run)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" $(ARGS)

test-all: $(STAMP) ## Every test, with branch coverage
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-branch --cov-report=term $(ARGS)

chaos: $(STAMP) ## 20,000 tasks and 60 faults of every kind over 3 workers, judged by what the tasks wrote (90 s)
	PYTHONPATH=src:tests $(BIN)/python -m support.history.chaos $(ARGS)

torture: $(STAMP) ## A million tasks and a fault every second, each round judged, into build/torture.json (90 minutes)
	PYTHONPATH=src:tests:. $(BIN)/python -m support.history.torture $(ARGS)

soak: $(STAMP) ## Half an hour at half load: memory, descriptors, threads, children; into build/soak.json
	PYTHONPATH=src:tests:. $(BIN)/python -m support.history.soak $(ARGS)

proof: $(STAMP) ## docs/proof.md from the last torture and soak; refused if they show a loss, a broken rule or growth
	PYTHONPATH=src:tests:. $(BIN)/python -m support.history.proof $(ARGS)

points: $(STAMP) ## Every fault point with every action: 153 small runs, judged as chaos is (8 minutes)
	PYTHONPATH=src:tests $(BIN)/python -m support.history.points $(ARGS)

sim: $(STAMP) ## 30,000 simulated histories of workers, server and network in virtual time, small and large (8 minutes)
	PYTHONPATH=src:tests $(BIN)/python -m support.sim --seeds 15000 $(ARGS)

sim-flaws: $(STAMP) ## Break worker and scripts in known ways, and see how soon the simulation finds each (5 minutes)
	PYTHONPATH=src:tests $(BIN)/python -m support.sim --flaws $(ARGS)

test-stdlib: $(STAMP) ## The standard library's own tests for executors, on qworker.Executor (needs a CPython that has them)
	$(BIN)/python -m pytest -s -rs tests/e2e/test_stdlib_executor.py $(ARGS)

models: $(STAMP) ## The scripts against their models: 1,000 to 2,750 runs of 40 steps of each machine on each server, fakeredis 100 to 300
	QWORKER_TEST_RUNS=50 $(BIN)/python -m pytest -n $(JOBS) tests/property/test_broker_machine.py \
	  tests/property/test_group_machine.py $(ARGS)

mutants: $(STAMP) ## Change the Lua scripts one word at a time, and see whether the tests notice (35 minutes; ARGS=--machines: the models alone)
	$(BIN)/python -m tests.mutation $(ARGS)

fuzz: $(STAMP) ## Feed what reads bytes of others with what might break it; what did is kept in the corpus (10 minutes)
	@$(BIN)/python -c 'import atheris' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary atheris --editable '.[fuzz]' \
	  || echo "no wheel of atheris for $$($(BIN)/python --version): hypothesis takes over" >&2
	$(BIN)/python -m tests.fuzz $(ARGS)

nightly: $(STAMP) ## All that CI has no time for, from test-all to torture and soak, into build/nightly.json (4 hours)
	$(BIN)/python -m tests.nightly $(ARGS)

bench: $(STAMP) ## qworker beside local pools and the fastest peers, what matters most, into build/ (10 minutes)
	-$(BIN)/python -m benchmarks setup pebble $(FASTEST) plots
	$(BIN)/python -m benchmarks run --minutes 9 --scenarios important --out build/bench/results.json \
	  --contestants qworker,threadpool,processpool,pebble,$(subst $(SPACE),$(COMMA),$(FASTEST)) $(ARGS)
	$(BIN)/python -m benchmarks report --results build/bench/results.json --page build/bench.md

bench-peers: $(STAMP) ## Every scenario and every peer, into docs/bench.md and docs/bench/ (40 minutes; ARGS=--continue adds rounds)
	-$(BIN)/python -m benchmarks setup
	$(BIN)/python -m benchmarks run --minutes 40 $(ARGS)
	$(BIN)/python -m benchmarks report

bench-kill: $(STAMP) ## How punctual 100 kills are, and how soon the slot of a killed task works again
	$(BIN)/python benchmarks/kill.py $(ARGS)

bench-stop: $(STAMP) ## How soon 1,000 cancels and 300 timeouts reach the code, in each kind of slot, under load (2 minutes)
	$(BIN)/python benchmarks/stop.py $(ARGS)

bench-guard: $(STAMP) ## Fail when Redis commands, instructions or system calls per task grew past a bound (1 minute)
	$(BIN)/python -m benchmarks guard $(ARGS)

clean: ## Remove .venv and what the tools left
	rm -rf $(VENV) .venv-stdlib benchmarks/.venvs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov dist build
