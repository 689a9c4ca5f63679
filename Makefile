# make demo | test | trials | simulate | soak | fuzz | metrics | lint | types | bench | boards | clean    PYTHON=python3.12 picks the interpreter, ARGS="..." is passed on

PYTHON ?= python3
ARGS ?=
FUZZ ?= 20
FUZZ_SECONDS ?= 60
SEED ?= 0
SEEDS ?= 1000
SOAK_SEEDS ?= 20000
MINUTES ?= 30
LANES ?= 2
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
PINS := -c constraints.txt --build-constraint constraints.txt
PACKAGES := peer dht averaging compression cli

.PHONY: demo test trials simulate soak soak-simulated soak-real fuzz fuzz-properties fuzz-codecs fuzz-parsers metrics lint types bench boards clean

demo: $(VENV)/.installed
	$(VENV)/bin/talkoot demo $(ARGS)

# LANES processes share the tests out; those with daemons of their own are all in one of them.
test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n $(LANES) --dist loadgroup -m "not trial" $(ARGS)

# Tests that watch real swarms for half a minute or more each.
trials: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -m trial $(ARGS)

# SEEDS swarms of the daemon's own code on a virtual clock, with all kinds of faults, from SEED on.
simulate: $(VENV)/.installed
	$(VENV)/bin/talkoot simulate --peers 0 --rounds 3 --seed $(SEED) --seeds $(SEEDS) --jobs $(JOBS) --quiet $(ARGS)

# Two soaks: SOAK_SEEDS simulated swarms, and MINUTES of real daemons under real faults (all kinds only as root).
soak: soak-simulated soak-real

soak-simulated: $(VENV)/.installed
	$(VENV)/bin/talkoot simulate --peers 0 --rounds 3 --seed $(SEED) --seeds $(SOAK_SEEDS) --jobs $(JOBS) --quiet
	$(VENV)/bin/talkoot simulate --peers 64 --rounds 2 --seed $(SEED) --quiet

soak-real: $(VENV)/.installed
	mkdir -p build
	$(VENV)/bin/talkoot demo --chaos --peers 8 --gap 15 --minutes $(MINUTES) --seed $(SEED) --json build/soak.json $(ARGS)

# The property tests with FUZZ times as many examples, new ones on each run, then each codec and each parser (of
# what comes from the network, the local API, a manifest, an invite or a disk) for FUZZ_SECONDS, guided by
# coverage, where atheris has a wheel. What is found becomes a test.
fuzz: fuzz-properties fuzz-codecs fuzz-parsers

fuzz-properties: $(VENV)/.installed-dev
	TALKOOT_FUZZ=$(FUZZ) $(VENV)/bin/python -m pytest --timeout 3600 -m hypothesis $(ARGS)

fuzz-codecs: $(VENV)/.installed-dev
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(VENV)/bin/python tests/fuzz_codecs.py $(CODECS)

fuzz-parsers: $(VENV)/.installed-dev
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(VENV)/bin/python tests/fuzz_parsers.py $(PARSERS)

# docs/metrics.md, from the tables in peer/metrics/; a test compares.
metrics: $(VENV)/.installed
	$(VENV)/bin/python -m talkoot.peer.metrics.reference > docs/metrics.md.new && mv docs/metrics.md.new docs/metrics.md

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# mypy finds packages by folder name, so it gets a tree of links that has the import name.
types: $(VENV)/.installed-dev
	rm -rf build/typing && mkdir -p build/typing/talkoot
	for package in $(PACKAGES); do ln -s "$(CURDIR)/$$package" build/typing/talkoot/; done
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy tests

bench: $(VENV)/.installed
	$(VENV)/bin/talkoot bench round --peers 4 --numel 25000000 $(ARGS)

# The Grafana dashboards, from docker/grafana/boards.
boards: $(VENV)/.installed-dev
	$(VENV)/bin/python docker/grafana/make_boards.py

# What was built, not the environment: for that, rm -rf .venv
clean:
	rm -rf build dist demo-out ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PACKAGES) docker tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("talkoot needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt --upgrade pip
	$(PIP) install $(PINS) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install $(PINS) --group dev
	$(PIP) install $(PINS) -e '.[relay]' || echo 'NO RELAY HERE: it needs a C compiler and the headers of libgmp (libgmp-dev); its tests are skipped'
	touch $@
