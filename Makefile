# One target per table; `make` without a target prints help.
#
#   make table1 SCALE=paper CLUSTER=slurm DRY=1

SCALE    ?= smoke
CLUSTER  ?= local
DRY      ?=
TORCH    ?=
SNAPSHOT ?=
FILE     ?=
SET      ?=
MINUTES  ?= 9
DEVICE   ?= cuda
OUT      ?=
WITH     ?=

VENV    := .venv
BIN     := $(VENV)/bin
PYTHON  ?=
PIP     := tools/pip_install.py
INSTALL := $(BIN)/python $(PIP) --no-deps
READY   := $(VENV)/.ready
KERNEL  := $(wildcard shared/dyt/build_backend.py shared/dyt/src/dyt/kernel_build.py shared/dyt/src/dyt/csrc/*)
# One process per core, up to four, because each imports torch. Slurm's tests share one cluster.
TESTS   := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4
PARTS   := $(patsubst %/pyproject.toml,%,$(wildcard shared/*/pyproject.toml packages/*/pyproject.toml))
EMPTY   :=
SOURCES := $(subst $(EMPTY) ,:,$(addprefix $(CURDIR)/,$(addsuffix /src,$(PARTS))))$(if $(PYTHONPATH),:$(PYTHONPATH))
# A table, or for the target "table" the user's own recipe file.
TABLE    = $(if $(filter table,$@),'$(FILE)',$@)
CHANGES  = $(foreach arm,$(WITH),--with '$(arm)') $(foreach change,$(SET),--set '$(change)')
CHOICE   = --scale $(SCALE) --cluster $(CLUSTER) $(CHANGES)
SUBMIT   = submit $(TABLE) $(CHOICE) $(if $(SNAPSHOT),--snapshot)

upper    = $(shell echo $(1) | tr a-z A-Z)

export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup own-environment wheels demo test test-slow test-slurm lint docs table tables
.PHONY: claims report test-dyt status bench chaos gpu parity mutants lock clean

help:
	@echo "make setup       create $(VENV) with all packages (other targets do so when needed)"
	@echo "make demo        matched LN/DyT runs of Table 1 at smoke scale, and their summary table"
	@echo "make test        the tests           make test-slow   the slow ones"
	@echo "make lint        ruff and mypy       make docs        the documentation as a site, in site/"
	@echo "make test-slurm  the tests on a private Slurm, which is installed for root (Debian)"
	@echo "make table1      a table: submit what is missing, wait when local, print the summary"
	@echo "make table FILE=my_table.py   a table of your own (docs/OWN-TABLES.md)"
	@echo "make tables      every table         make status      the state of every run"
	@echo "make report      every result on one page, results/report/index.html, and results/summary.*"
	@echo "make claims SCALE=mini   every table that the papers' claims need, then their verdicts"
	@echo "make fig2        a figure of a paper, and the runs that it shows (fig1-9, fig11, iclr-fig1-5)"
	@echo "make bench       time the harness    make chaos       kill, preempt and fill the disk of runs"
	@echo "make parity MAE=<checkout> DINO=… CADUCEUS=… MAMBA=… FAIRSEQ=.   equality with official code, computed"
	@echo "make gpu         check and measure every GPU path on one card (docs/GPU.md)"
	@echo "make mutants MODULE=<file> TESTS_OF='<tests>'   which small bugs of a module no test notices"
	@echo "make test-dyt TORCH=2.4.1     the tests of dyt with another torch"
	@echo "make wheels      a wheel of dyt with the CPU kernel inside, in dist/"
	@echo "make clean       delete caches; keep the environment, runs and results"
	@echo
	@echo "Options: SCALE=smoke|mini|paper  CLUSTER=debug|local|slurm  DRY=1 (print the plan only)"
	@echo "         SNAPSHOT=1 (run from a copy of the current code)"
	@echo "         WITH=Derf (add an arm of recipes/extra_arms.py)"
	@echo "         SET='lr=1e-3 epochs=5' (change config fields in all runs)"
	@echo "Now:     SCALE=$(SCALE)  CLUSTER=$(CLUSTER)"

setup: $(READY)

# The lock is complete, so nothing is resolved: the installed versions are the tested ones.
$(READY): requirements.lock $(wildcard shared/*/pyproject.toml packages/*/pyproject.toml) $(KERNEL) \
		| own-environment
	@sh tools/create-environment $(VENV) $(PYTHON)
	@echo "Installing the pinned packages into $(VENV): a few minutes and 6 GB, once"
	@$(INSTALL) -r requirements.lock
	@$(INSTALL) --no-build-isolation $(addprefix -e ./,$(PARTS))
	@(cd $(VENV) && pwd -P) > $@

# The scripts and packages of an environment have its absolute path, which .ready records.
own-environment:
	@test ! -s $(READY) || test "$$(cat $(READY))" -ef $(VENV) || { \
		echo "error: $(VENV) was created as $$(cat $(READY)), and this checkout was renamed or copied" \
			"since; create it again: rm -rf $(VENV) && make setup" >&2; exit 2; }

wheels: setup
	$(BIN)/python $(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist ./shared/dyt

# The tests of dyt with another torch, in an environment of its own. Files that need libraries other
# than timm are left out.
test-dyt:
	@test -n '$(TORCH)' || { echo "name the version: make test-dyt TORCH=2.4.1" >&2; exit 2; }
	@sh tools/create-environment .venv-torch-$(TORCH) $(PYTHON)
	.venv-torch-$(TORCH)/bin/python $(PIP) --unpinned torch==$(TORCH) timm numpy pytest
	.venv-torch-$(TORCH)/bin/python $(PIP) --unpinned --no-deps ./shared/dyt
	cd tests/dyt && DYT_TESTS_SKIP_MISSING=1 ../../.venv-torch-$(TORCH)/bin/python -m pytest \
		-c ../../pyproject.toml -m "not slow" --ignore test_benchmarks.py .

demo: setup
	$(BIN)/matched submit table1 --scale smoke --cluster local --wait

test: setup
	$(TESTS) --dist=worksteal -m "not slow and not slurm"

test-slow: setup
	$(TESTS) --dist=loadfile -m slow

test-slurm: setup
	@sh tools/install-slurm
	$(BIN)/python -m pytest -m slurm -ra

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

ifneq ($(DRY),)
define MAKE_TABLE
@$(BIN)/matched plan $(TABLE) $(CHOICE)
endef
else ifeq ($(CLUSTER),slurm)
define MAKE_TABLE
@$(BIN)/matched $(SUBMIT)
@$(BIN)/matched table $(TABLE) --scale $(SCALE) $(CHANGES)
endef
else
define MAKE_TABLE
@$(BIN)/matched $(SUBMIT) --wait
endef
endif

# table1, iclr-table3, …: `matched` refuses an unknown table and names the known ones.
# Two rules, because one pattern rule with two targets would make both at once.
table%: setup
	$(MAKE_TABLE)

iclr-table%: setup
	$(MAKE_TABLE)

# A table of one's own.
table: setup
	@test -n '$(FILE)' || { echo "name the recipe file: make table FILE=my_table.py" >&2; exit 2; }
	$(MAKE_TABLE)

tables: setup
	@for table in $$($(BIN)/matched list); do $(MAKE) --no-print-directory $$table || exit $$?; done

# The tables of recipes/claims.py that have the scale, and first how long they take. On Slurm they are only
# submitted: call it again when the runs have finished.
CLAIMS = $(BIN)/matched claims --scale $(SCALE) --cluster $(CLUSTER) $(CHANGES)
claims: setup
	@$(CLAIMS)
ifeq ($(DRY),)
	@$(CLAIMS) --names | while read -r table; do $(MAKE) --no-print-directory $$table </dev/null || \
		echo "make claims goes on without what failed in $$table" >&2; done
	@$(BIN)/matched report --scale $(SCALE) $(CHANGES)
	@$(CLAIMS)
endif

# All results at all scales.
report: setup
	$(BIN)/matched report $(foreach arm,$(WITH),--with '$(arm)')

# fig2, iclr-fig1, …: submit what is missing, wait when local, and draw. On Slurm the figure is drawn
# by calling the target again when the runs have finished.
define MAKE_FIGURE
@for recipe in $$($(BIN)/matched figure $@ --needs); do \
	if [ -n "$(DRY)" ]; then $(BIN)/matched plan $$recipe --scale $(SCALE) --cluster $(CLUSTER); \
	else $(BIN)/matched submit $$recipe --scale $(SCALE) --cluster $(CLUSTER) \
		$(if $(SNAPSHOT),--snapshot) $(if $(filter slurm,$(CLUSTER)),,--wait); \
	fi || exit $$?; done
@$(if $(DRY),true,$(BIN)/matched figure $@ --scale $(SCALE))
endef

fig%: setup
	$(MAKE_FIGURE)

iclr-fig%: setup
	$(MAKE_FIGURE)

status: setup
	@for table in $$($(BIN)/matched list); do $(BIN)/matched status $$table --scale $(SCALE); done

bench: setup
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/loop.py

chaos: setup
	$(BIN)/python benchmarks/chaos.py

# Upper-case variables are checkouts: MAE=/path/to/mae. FAIRSEQ=. and TRANSFORMERS=. are the installed
# packages.
CHECKOUTS := mae dino dit adm convnext nanogpt fmsfsdp fairseq transformers hyenadna caduceus mamba \
	release liger
parity: setup
	$(BIN)/python parity/run.py $(foreach name,$(CHECKOUTS),$(if $($(call upper,$(name))),\
		$(name)='$($(call upper,$(name)))'))

# On another machine its own Python, without an environment: make gpu PYTHON=python3
gpu: $(if $(PYTHON),,setup)
	PYTHONPATH='$(SOURCES)' $(or $(PYTHON),$(BIN)/python) benchmarks/gpu.py \
		--device $(DEVICE) --minutes $(MINUTES) $(if $(OUT),--out '$(OUT)')

mutants: setup
	@test -n '$(MODULE)' -a -n '$(TESTS_OF)' || { sed -n '3p' tools/mutants.py >&2; exit 2; }
	$(BIN)/python tools/mutants.py $(MODULE) $(TESTS_OF)

# Update requirements.lock from requirements.in; needs uv.
lock:
	uv pip compile --universal --python-version 3.11 --no-header --no-annotate \
		--override requirements.override requirements.in -o requirements.lock

clean:
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .mypy_cache site
