# Everything sets itself up in .venv; `make` alone lists the targets.
PYTHON ?= python3
# Where no CPU build of torch comes from the default index, name PyTorch's CPU index here.
TORCH_INDEX ?=

VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
PROJECTS := shared/pyproject.toml agent/pyproject.toml controller/pyproject.toml
VERSIONED := shared/wherry/__init__.py hatch_build.py
VENV310 := .venv310
STAMP310 := $(VENV310)/.installed
PYTEST_ARGS ?=
# Where builds keep an environment for each runtime version, and roots for other processors.
RUNTIMES ?= build/runtimes

export PIP_NO_INPUT := 1
# A user who is not root may lack sbin, where mosquitto lives.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: help venv tflite test-packages emulation-packages test test-arm arm arm-packages arm-roots check format demo bench-build bench-delivery bench-agent bench-agent-packages test-clients bench-packages systemd machine-packages conformance conformance-packages fuzz wheels test-py310 powercut smalldevice powercut-packages badnet badnet-packages deb deb-packages packing-tools test-deb test-deb-packages images test-images images-packages clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | \
	  while IFS='|' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

venv: $(STAMP) ## make or refresh .venv with the three distributions and the tools
	@:

$(STAMP): pyproject.toml constraints.txt $(PROJECTS) $(VERSIONED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Wherry's controller needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Installing into $(VENV) (the first time this downloads torch and the runtimes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --upgrade pip
	@$(PIP_INSTALL) -c constraints.txt hatchling editables
	@# tflite-runtime needs numpy 1, so its extra never goes with the others.
	@$(PIP_INSTALL) -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  --no-build-isolation --group dev -e shared -e 'agent[onnx,litert,host]' \
	  -e 'controller[builder,litert,tables,images,embedded,sim]'
	@touch $@

# Before anything is downloaded, what is missing of Debian's is installed, or said.
debian = { missing=; \
	  for each in $(1); do \
	    command -v $${each%=*} >/dev/null || missing="$$missing $${each\#*=}"; \
	  done; \
	  if [ -z "$$missing" ]; then :; \
	  elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Debian's$$missing for the tests"; \
	    apt-get update -qq >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else \
	    echo "The tests need more: sudo apt-get install$$missing" >&2; exit 1; \
	  fi; }

test-packages:
	@$(call debian,mosquitto=mosquitto faketime=faketime qemu-x86_64-static=qemu-user-static curl=curl openssl=openssl)

emulation-packages:
	@$(call debian,qemu-aarch64-static=qemu-user-static mmdebstrap=mmdebstrap)

# tflite-runtime needs numpy 1, so it gets an environment of its own; it ends with Python 3.11.
TFLITE := build/tflite
$(TFLITE)/.installed: constraints.txt $(PROJECTS) $(VERSIONED)
	@$(PYTHON) -m venv $(TFLITE)
	@sed '/^numpy==/s/.*/numpy==1.26.4/' constraints.txt > $(TFLITE)/constraints.txt
	@$(TFLITE)/bin/python -m pip install -qq --disable-pip-version-check -c $(TFLITE)/constraints.txt hatchling editables
	@$(TFLITE)/bin/python -m pip install -qq --disable-pip-version-check -c $(TFLITE)/constraints.txt \
	  --no-build-isolation -e shared -e 'agent[tflite]'
	@touch $@

tflite:
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
	  $(MAKE) --no-print-directory $(TFLITE)/.installed; fi

test: test-packages ## run all tests, those with the real parts too
	@$(MAKE) --no-print-directory venv tflite
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

arm-roots: emulation-packages ## make Debian's Python for 64 and 32 bit ARM in RUNTIMES, to emulate them
	@$(MAKE) --no-print-directory venv
	@for arch in aarch64 armv7l; do \
	  $(BIN)/python -m wherry_controller.builder.running.roots $$arch $(RUNTIMES) || exit 1; \
	done

# By its file's name: `make test` leaves it out.
test-arm: emulation-packages ## run the tests on emulated ARM processors
	@$(MAKE) --no-print-directory venv
	@$(BIN)/python -m pytest tests/arm/answers.py $(PYTEST_ARGS)

check: venv ## check format, lint, types (3.10 and 3.11) and the contracts between packages
	@$(BIN)/ruff format --check --quiet . || \
	  { echo "Not formatted: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --python-version 3.10 shared/wherry agent/wherry_agent
	@$(BIN)/mypy --python-version 3.11 controller/wherry_controller controller/wherry_sim tests
	@$(BIN)/lint-imports

format: venv ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .

demo: venv ## run the main job end to end on this machine; the report is build/demo/report.json
	@$(BIN)/wherry demo --output build/demo

bench-build: venv ## build real nets for six profiles; figures and their bars, and build/bench/build.json
	@$(BIN)/python -m tests.bench.build

# The suite has needs of its own, so it gets an environment of its own.
CONFORMANCE := build/conformance
conformance: conformance-packages ## run the TUF conformance suite whose checkout is SUITE against our verifier
	@test -f "$(SUITE)/CLIENT-CLI.md" || \
	  { echo "Say where a checkout of theupdateframework/tuf-conformance is: make conformance SUITE=..." >&2; exit 1; }
	@$(MAKE) --no-print-directory venv
	@test -x $(CONFORMANCE)/bin/python || $(PYTHON) -m venv $(CONFORMANCE)
	@$(CONFORMANCE)/bin/python -m pip install -qq --disable-pip-version-check $(abspath $(SUITE))
	@here=$$PWD; cd $(SUITE) && $$here/$(CONFORMANCE)/bin/python -m pytest tuf_conformance -q \
	  -p no:cacheprovider $(PYTEST_ARGS) \
	  --entrypoint="$$here/tests/conformance/tuf_client"

conformance-packages:
	@$(call debian,faketime=faketime)

bench-packages:
	@$(call debian,mosquitto=mosquitto nginx=nginx-light xdelta3=xdelta3 zstd=zstd bsdiff=bsdiff)

bench-delivery: bench-packages ## deltas, one bundle to many agents, kills; figures and their bars, and build/bench/delivery.json
	@$(MAKE) --no-print-directory venv
	@$(BIN)/python -m tests.bench.delivery

# The peers' environments are made below build/bench/peers; PyTriton's is of Debian's own Python.
bench-agent: bench-agent-packages ## serving, swaps, crashes and memory beside four other servers; figures and their bars, and build/bench/agent.json
	@$(MAKE) --no-print-directory venv
	@$(BIN)/python -m tests.bench.agent

test-clients: bench-agent-packages ## ask the local API with KServe's SDK and mlserver infer, unchanged
	@$(MAKE) --no-print-directory venv
	@$(BIN)/python -c 'from tests.bench.agent.environments import python_of as p; p("kserve"); p("mlserver")'
	@$(BIN)/python -m tests.bench.clients

bench-agent-packages:
	@$(call debian,mosquitto=mosquitto /usr/bin/python3=python3)

# It boots Debian in a container below build/machines, so it wants root.
systemd: machine-packages ## install our packages in a container that boots: does systemd start, watch and confine them?
	@$(MAKE) --no-print-directory deb DEB_ARCHES=amd64
	@export PATH=$$PWD/$(PACKAGING)/bin:$$PATH; $(BIN)/python -m tests.machines.systemd

machine-packages:
	@$(call debian,systemd-nspawn=systemd-container mmdebstrap=mmdebstrap mosquitto=mosquitto)

# The fuzzer goes into a folder beside .venv: it is for compilers that wheels exist for.
FUZZ := build/fuzz
FUZZ_S ?= 20
fuzz: venv ## fuzz each parser of outside bytes for FUZZ_S seconds; what crashes one is kept in build/fuzz
	@test -d $(FUZZ)/packages || $(PIP_INSTALL) -c constraints.txt --target $(FUZZ)/packages atheris
	@export PYTHONPATH=$(FUZZ)/packages; \
	for name in $$($(BIN)/python -m tests.fuzz.atheris_targets); do \
	  echo "$$name, $(FUZZ_S) s"; \
	  $(BIN)/python -m tests.fuzz.atheris_targets $$name $(FUZZ)/corpus/$$name -verbosity=0 \
	    -max_total_time=$(FUZZ_S) -artifact_prefix=$(FUZZ)/crash-$$name- || exit 1; \
	done

# Namespaces and the link between them are root's to make.
badnet: badnet-packages ## roll out to 20 agents over a slow, lossy, torn link that goes down; needs root
	@$(MAKE) --no-print-directory venv
	@$(BIN)/python -m tests.machines.badnet

badnet-packages:
	@$(call debian,mosquitto=mosquitto ip=iproute2 nft=nftables nsenter=util-linux)

# nfpm packs; what debuggers read is taken out of compiled modules, also of other processors.
PACKAGING := build/packaging
DEB_ARCHES ?= amd64 arm64 armhf
deb: deb-packages ## fill dist/ with Debian packages of agent, runtimes and controller, for DEB_ARCHES
	@$(MAKE) --no-print-directory venv packing-tools
	@export PATH=$$PWD/$(PACKAGING)/bin:$$PATH; \
	for arch in $(DEB_ARCHES); do $(BIN)/python packaging/debs.py $$arch $(DEB_OPTIONS) || exit 1; done

packing-tools: $(PACKAGING)/.installed
	@:

$(PACKAGING)/.installed: pyproject.toml constraints.txt
	@$(PIP_INSTALL) -c constraints.txt --upgrade --target $(PACKAGING) --group packaging
	@touch $@

# For 32-bit ARM some wheels are built first, once, in an emulated root.
deb-packages:
	@$(call debian,x86_64-linux-gnu-strip=binutils aarch64-linux-gnu-strip=binutils-aarch64-linux-gnu \
	  $(if $(filter armhf,$(DEB_ARCHES)),arm-linux-gnueabihf-strip=binutils-arm-linux-gnueabihf \
	    qemu-arm-static=qemu-user-static mmdebstrap=mmdebstrap))

# Roots of Debian 12 and 13 are made and deleted again; no program in them has a network.
test-deb: deb test-deb-packages ## install, serve, upgrade, cut off CUTS times and purge our packages in Debian 12 and 13
	@export PATH=$$PWD/$(PACKAGING)/bin:$$PATH; $(BIN)/python -m tests.machines.debs

test-deb-packages:
	@$(call debian,mmdebstrap=mmdebstrap lintian=lintian mosquitto=mosquitto unshare=util-linux)

# The kernel is told how to start programs of ARM, and roots are made and deleted again.
ARCHES ?= arm64 armhf
arm: arm-packages ## try our packages on emulated ARM (ARCHES), with bundles that are built here; needs root
	@$(MAKE) --no-print-directory deb DEB_ARCHES="$(ARCHES)" DEB_OPTIONS=--missing
	@export PATH=$$PWD/$(PACKAGING)/bin:$$PATH ARCHES="$(ARCHES)"; \
	$(BIN)/python packaging/emulated.py $(BIN)/python -m tests.machines.arm

arm-packages:
	@$(call debian,qemu-aarch64-static=qemu-user-static arch-test=arch-test mmdebstrap=mmdebstrap \
	  mosquitto=mosquitto unshare=util-linux)

# BASE is what they stand on, EXTRAS what the controller's can (packaging/images.py has the defaults).
images: images-packages ## build images of the controller and the agent with podman; their parts' lists go to dist/
	@$(MAKE) --no-print-directory venv
	@BASE="$(BASE)" EXTRAS="$(EXTRAS)" TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/python packaging/images.py

# No registry is asked: Debian, mosquitto and PostgreSQL are images of Debian's packages, for its time.
test-images: images-packages ## build the images, type docs/containers.md, look at health, users and restoring; needs root
	@$(MAKE) --no-print-directory venv
	@$(BIN)/python -m tests.machines.images $(if $(KEEP),--keep)

images-packages:
	@$(call debian,podman=podman runc=runc catatonit=catatonit /usr/lib/podman/netavark=netavark \
	  /usr/lib/podman/aardvark-dns=aardvark-dns \
	  mmdebstrap=mmdebstrap openssl=openssl)

wheels: venv ## fill dist/ with the three wheels
	@rm -f dist/*.whl
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation \
	  --wheel-dir dist ./shared ./agent ./controller
	@ls dist/*.whl

# A shim named python3.10 may exist and fail, so each candidate is asked to run.
test-py310: ## run the tests of shared/ and agent/ on Python 3.10, where one is found
	@for candidate in python3.10 $$HOME/.pyenv/versions/3.10*/bin/python3.10; do \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null; then \
	    $(MAKE) --no-print-directory PYTHON310=$$candidate $(STAMP310) && \
	    exec $(VENV310)/bin/python -m pytest tests/shared tests/agent $(PYTEST_ARGS); \
	    exit 1; \
	  fi; \
	done; echo "No Python 3.10 that runs was found, so nothing was tested." >&2; exit 1

$(STAMP310): pyproject.toml constraints-py310.txt $(PROJECTS) $(VERSIONED)
	@test -x $(VENV310)/bin/python || $(PYTHON310) -m venv $(VENV310)
	@$(VENV310)/bin/python -m pip install -qq --disable-pip-version-check --upgrade pip
	@$(VENV310)/bin/python -m pip install -qq -c constraints-py310.txt hatchling editables
	@$(VENV310)/bin/python -m pip install -qq -c constraints-py310.txt --no-build-isolation \
	  --group test -e shared -e 'agent[onnx,litert,host]'
	@touch $@

# CUTS and SEED say how often and which, PARTS=package,fetch in what; PLANT=files or database
# plants a bug, which is to be found.
CUTS ?= 60
SEED ?= 1
powercut: powercut-packages ## kill an emulated device CUTS times, its disk loses what was not flushed; it must serve
	@$(MAKE) --no-print-directory venv packing-tools
	@export PATH=$$PWD/$(PACKAGING)/bin:$$PATH; \
	$(BIN)/python -m tests.machines.power --cuts $(CUTS) --seed $(SEED) \
	  $(if $(PARTS),--parts $(PARTS)) $(if $(PLANT),--plant $(PLANT))

smalldevice: powercut-packages ## swap LiteRT models on an emulated device of 512 MB, and have one eat its memory
	@$(MAKE) --no-print-directory venv
	@$(BIN)/python -m tests.machines.vm_small

powercut-packages:
	@$(call debian,mosquitto=mosquitto qemu-system-x86_64=qemu-system-x86 \
	  mmdebstrap=mmdebstrap debugfs=e2fsprogs x86_64-linux-gnu-strip=binutils)

clean: ## remove what was built and installed here
	@rm -rf $(VENV) $(VENV310) build dist .mypy_cache .pytest_cache .ruff_cache \
	  .import_linter_cache .hypothesis .coverage htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
