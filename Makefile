# The whole interface of this project. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Where it is set, each of the hundreds of programs that the tests start compiles all it imports.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= app/nativelink/configs/all_in_one.json5
# Two workers beside two cores' worth of servers under test: more only fight, for most of a run.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n > 4 ? 4 : n )))
# What mostly waits for Terraform, for machines and for packages, waits beside them.
WAITING ?= 2
PYTEST = $(BIN)/pytest -n $$(( $(JOBS) + $(WAITING) )) --waiting $(WAITING) --dist loadgroup -q

PYTHON := $(VENV)/.python
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
COMPILED := $(VENV)/.compiled
BEFORE_TESTS :=
TOOLS := .tools/.ready
INFRA := .tools/infra
CDKTF := .tools/cdktf/.ready

# A checkout that was moved has programs that name their old place: make them again.
ifneq ($(shell cat $(VENV)/.made-in 2>/dev/null),$(CURDIR))
$(PYTHON) $(RUNTIME) $(DEV) $(COMPILED): FORCE
endif

.PHONY: FORCE ready run test test-clients test-infra check bench docs clean help lock format protos
.PHONY: image-bundle image ami-validate test-image
.PHONY: needs-region synth plan preflight cost deploy destroy outputs hcl region-local interrupt test-region

# Actions at the same time on this machine's own worker.
run: export NATIVELINK_JOBS ?= $(shell nproc 2>/dev/null || echo 2)
run: $(RUNTIME) ## Set up and start the whole system (yours: CONFIG=FILE)
	@exec $(BIN)/nativelink $(CONFIG)

test test-infra: BEFORE_TESTS := $(COMPILED)
test: ready ## Set up and run every test
	@$(PYTEST)

test-clients: ready ## The longer run against clients (also Bazel 7)
	@scripts/bazel7_root.sh
	@BAZEL7=1 $(BIN)/pytest -q tests/clients

check: $(DEV) $(INFRA)/.ready ## Lint, types, imports, generated files, documents
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/mypy -p scripts.region_local
	@$(BIN)/mypy --python-executable $(INFRA)/bin/python --cache-dir .mypy_cache/infra -p infra
	@$(BIN)/mypy ami/boot/*.py scripts/image.py scripts/image_bundle.py
	@$(BIN)/pyright
	@$(BIN)/python scripts/generate_protos.py --check
	@$(BIN)/python scripts/generate_config_docs.py --check
	@$(BIN)/python scripts/generate_coverage_docs.py --check
	@$(BIN)/pytest -q tests/architecture tests/docs

test-infra: ready ## Only the AWS kit: settings to deployment
	@$(PYTEST) tests/infra

test-region: ready ## Only a region on this machine
	@$(BIN)/pytest -q --log-cli-level=INFO tests/region

region-local: $(DEV) ## A whole region on this machine, without AWS
	@$(BIN)/python scripts/tools.py redis infra
	@PYTHONPATH=app:. exec $(BIN)/python -m scripts.region_local $(ARGS)

interrupt: ## Take a worker of region-local back, with a spot notice
	@PYTHONPATH=app:. $(BIN)/python -m scripts.region_local interrupt $(ARGS)

# Before what takes minutes to install.
needs-region:
	@test -n "$(REGION)" || { echo "REGION is not set; such as: make plan REGION=team" >&2; exit 2; }

synth: needs-region $(CDKTF) ## Write a region's Terraform into cdktf.out (REGION=NAME)
	@$(BIN)/python scripts/infra.py synth

plan: needs-region $(CDKTF) image-bundle ## Show what deploying a region would change (REGION=NAME)
	@$(BIN)/python scripts/infra.py plan

preflight: needs-region $(DEV) ## Do the account's quotas suffice? (REGION=NAME)
	@$(BIN)/python scripts/preflight.py

cost: needs-region $(DEV) ## What a region costs in a month (REGION=NAME)
	@$(BIN)/python scripts/cost.py

deploy: needs-region $(CDKTF) image-bundle ## Make or change a region in AWS (REGION=NAME)
	@$(BIN)/python scripts/infra.py deploy

destroy: needs-region $(CDKTF) ## Take a region away (REGION=NAME)
	@$(BIN)/python scripts/infra.py destroy

outputs: needs-region $(CDKTF) ## A region's endpoint and .bazelrc lines (REGION=NAME)
	@$(BIN)/python scripts/infra.py outputs

hcl: needs-region $(CDKTF) ## A region's Terraform as HCL, to leave CDKTF (REGION=NAME)
	@$(BIN)/python scripts/infra.py hcl

image-bundle: $(DEV) ## Write dist/image-bundle.tar.gz, which images are made from
	@$(BIN)/python scripts/image_bundle.py

image: $(DEV) ## Build the container: dist/nativelink-image.oci.tar
	@$(BIN)/python scripts/tools.py image
	@$(BIN)/python scripts/image.py container

ami-validate: $(DEV) ## Check what images are made from: scripts, components, Packer's template
	@$(BIN)/python scripts/tools.py packer shellcheck
	@$(BIN)/pytest -q tests/ami

test-image: ready ## Only images: make them, boot them, start every role
	@$(BIN)/pytest -q tests/ami

bench: ready ## Measure against peers; writes docs/benchmarks*.md
	@$(BIN)/python -m bench $(BENCH)
	@$(BIN)/python -m bench.execution
	@$(BIN)/python -m bench.stores

docs: $(DEV) $(INFRA)/.ready ## Generate what is generated in docs/
	@$(BIN)/python scripts/generate_config_docs.py
	@$(BIN)/python scripts/generate_metrics_docs.py
	@$(BIN)/python scripts/generate_scheduler_docs.py
	@$(BIN)/python scripts/generate_coverage_docs.py
	@$(BIN)/python scripts/generate_infra_docs.py
	@$(BIN)/python scripts/cost.py --write

clean: ## Remove what the other targets made, but no cached builds
	@rm -rf $(VENV) .tools dist cdktf.out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find app tests scripts bench infra -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# -- for those who change the project ---------------------------------------------------------

format: $(DEV) ## Format, and mend what the linter can
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

protos: $(DEV) ## Generate the messages of changed .proto files
	@$(BIN)/python scripts/generate_protos.py

lock: $(DEV) ## Renew the locks from requirements/*.in
	@scripts/lock.sh

# What tests need. Packages of Python install on one processor: the tools use the other one.
ready:
	@$(MAKE) --jobs=2 $(DEV) $(BEFORE_TESTS) $(TOOLS)

$(PYTHON): scripts/environment.sh
	@scripts/environment.sh $(VENV)
	@touch $@

$(RUNTIME): requirements/runtime.txt requirements/build.txt pyproject.toml $(PYTHON)
	@scripts/environment.sh $(VENV) requirements/runtime.txt requirements/build.txt
	@touch $@

$(DEV): requirements/dev.txt requirements/build.txt pyproject.toml $(PYTHON)
	@scripts/environment.sh $(VENV) requirements/dev.txt requirements/build.txt
	@touch $@ $(RUNTIME)

# Once, and not by all of pytest's processes at the same time. What is wrong with a module, they say.
$(COMPILED): $(DEV)
	@$(BIN)/pytest --collect-only -qq >/dev/null 2>&1 || true
	@touch $@

$(INFRA)/.ready: requirements/infra.txt | $(PYTHON)
	@$(BIN)/python scripts/tools.py infra
	@touch $@

$(CDKTF): $(INFRA)/.ready scripts/npm/cdktf/package-lock.json
	@$(BIN)/python scripts/tools.py cdktf
	@touch $@

# nice: collecting the tests, beside it, has one thread, and would end last.
$(TOOLS): scripts/tools.py $(addprefix requirements/,infra.txt scan.txt clients.txt) $(wildcard scripts/npm/*/package-lock.json) | $(PYTHON)
	@nice $(BIN)/python scripts/tools.py
	@touch $@
