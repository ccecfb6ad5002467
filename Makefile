# Everything that operators and developers type. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Python of the control machine. Debian 12's own is right; another one: make venv PYTHON=python3.12
PYTHON ?= python3
# Scenarios of containers, the longest first.
SCENARIOS := cluster compute backup single services base
# Scenarios of virtual machines.
MACHINE_SCENARIOS := storage
# Those with tests of the second tier, marked `fault` (tests/README.md).
FAULT_SCENARIOS := cluster storage backup compute services base
# What `make test` and `make test-faults` run, two at a time: the longest first, so that at the end no lane is idle for long.
STEPS := molecule-cluster molecule-storage molecule-compute molecule-backup molecule-single integration \
  lint unit molecule-services molecule-base
FAULT_STEPS := $(addprefix faults-,$(FAULT_SCENARIOS) integration) mutation
# A step that takes longer hangs: it is ended, and the others go on.
STEP_MINUTES ?= 50
FAULT_STEP_MINUTES ?= 100

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export MOLECULE_COMMAND_BORDERS := 0

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: venv
venv: .venv/.installed ## Make the pinned environment in .venv

.venv/.installed: requirements.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "This needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" -V 2>&1)."
	  echo "Install one beside it (python3.11, python3.12) and type: make $(MAKECMDGOALS) PYTHON=python3.12"
	  exit 1
	} >&2
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || {
	  echo "Python lacks its module venv. Type this, then repeat: sudo apt-get install --yes python3-venv" >&2
	  exit 1
	}
	echo "Making .venv with the pinned tools (about a minute)"
	"$(PYTHON)" -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	touch $@

.PHONY: requirements
requirements: venv ## Take newer versions into requirements*.txt
	for name in requirements requirements-acceptance requirements-servers; do
	  # The head of each file has this command: the bot of renovate.json reads it there, and wants it written with `=`.
	  uv pip compile --upgrade --quiet --universal --python-version=3.11 --generate-hashes --output-file="$$name.txt" "$$name.in"
	done

.PHONY: engine
engine: ## Make sure that a Docker engine answers
	@molecule/resources/docker-engine

.PHONY: image
image: engine ## Build the images of the test bed's hosts
	@molecule/resources/node-image

.PHONY: stand-in
stand-in: venv
	@mkdir -p .cache/stand-in
	# Renamed into place: another scenario may be reading it.
	python molecule/stand_in/make_repository.py .cache/stand-in/source >.cache/stand-in/commit.$$$$
	mv .cache/stand-in/commit.$$$$ .cache/stand-in/commit

.PHONY: demo
demo: venv ## Start a cluster of four containers on this computer
	@molecule/resources/demo up

.PHONY: demo-join
demo-join: venv ## Add a compute host to the demo with one line and one command
	@molecule/resources/demo join

.PHONY: demo-destroy
demo-destroy: venv ## Take the demo away
	@molecule/resources/demo destroy

.PHONY: plan
plan: venv ## Show what an inventory makes of its GPUs (INVENTORY=inventories/mysite)
	@ansible-playbook $(if $(INVENTORY),--inventory "$(INVENTORY)") playbooks/plan.yml

.PHONY: lint
lint: venv ## Check the style of everything
	@tests/lint

.PHONY: unit
unit: venv ## Run the unit tests
	@pytest tests/unit

.PHONY: molecule
molecule: $(addprefix molecule-,$(SCENARIOS) $(MACHINE_SCENARIOS)) ## Run every Molecule scenario

.PHONY: $(addprefix molecule-,$(SCENARIOS) $(MACHINE_SCENARIOS))
$(addprefix molecule-,$(SCENARIOS) $(MACHINE_SCENARIOS)): export PYTEST_ADDOPTS += -m "not fault"
$(addprefix molecule-,$(SCENARIOS)): molecule-%: venv image stand-in
	@molecule test --scenario-name $*

$(addprefix molecule-,$(MACHINE_SCENARIOS)): molecule-%: venv
	@molecule test --scenario-name $*

molecule-%: ## Run one Molecule scenario: base, services, single, compute, cluster, backup or storage
	@echo "There is no scenario $*; there are: $(SCENARIOS) $(MACHINE_SCENARIOS)" >&2
	exit 2

# Deployed without the dry run and the second run of the first tier.
.PHONY: $(addprefix faults-,$(FAULT_SCENARIOS))
$(addprefix faults-,$(FAULT_SCENARIOS)): export PYTEST_ADDOPTS += -m fault
$(addprefix faults-,$(FAULT_SCENARIOS)): faults-%: venv image stand-in
	@molecule destroy --scenario-name $*
	trap 'molecule destroy --scenario-name $*' EXIT
	molecule converge --scenario-name $*
	molecule verify --scenario-name $*

.PHONY: faults-integration
faults-integration:
	@$(MAKE) integration TIER=faults

faults-%: ## Run the tests of the second tier of one scenario: cluster, storage, backup, compute or services; or of integration
	@echo "There are no such tests of $*, but of: $(FAULT_SCENARIOS)" >&2
	exit 2

.PHONY: test
test: venv ## Run lint, unit tests and every scenario, as CI does
	@tests/run-all $(STEP_MINUTES) $(STEPS)

.PHONY: test-faults
test-faults: venv ## Run what waits, kills, floods or repeats (before a release, and each night)
	@tests/run-all $(FAULT_STEP_MINUTES) $(filter-out mutation,$(FAULT_STEPS))
	# Alone: it deploys hosts of the same names, and takes them away.
	$(MAKE) mutation

.PHONY: integration
integration: export TIER ?= test
integration: venv stand-in ## Test the cluster's package beside databases and workers that go (TIER=faults, all)
	@tests/integration-run

.PHONY: mutation
mutation: venv $(if $(filter unit,$(ONLY)),,image stand-in) ## Break everything on purpose; tests must notice (ONLY=unit, integration, scenarios)
	@python tests/tools/mutation.py $(if $(ONLY),--only "$(ONLY)")

.PHONY: acceptance
acceptance: venv image ## Deploy the real eScriptorium (ESCRIPTORIUM_REPO=...) and work with it
	@tests/acceptance-run

.PHONY: bench
bench: venv image ## Measure deployments with 4, 16 and 64 compute hosts (HOSTS="4 16 64")
	@tests/bench $(HOSTS)

.PHONY: soak
soak: venv image stand-in ## Let a cluster at work fall over again and again (SEED=1 MINUTES=30)
	@tests/soak "$(or $(SEED),1)" "$(or $(MINUTES),30)"

.PHONY: clean
clean: ## Remove .venv and .cache
	rm -rf .venv .cache
