# Lightning VOS. `make help` lists the targets; every target prints the command that it runs.

METHOD    ?= remn
DATA      ?= demo
DATA_ROOT ?= data
# all = static, then video, then eval
STAGE     ?= all
# settings on top of the method's own: experiments/<method>/<recipe>/{model,<stage>}.yaml, for each recipe in turn
RECIPE    ?= $(if $(filter demo,$(DATA)),small demo)
RUN       ?= $(METHOD)-$(DATA)$(if $(filter-out demo,$(DATA)),$(if $(RECIPE),-$(firstword $(RECIPE))))
CKPT      ?= runs/$(RUN)/video/checkpoints/last.ckpt
WEIGHTS   ?=
# bfloat16 where the processor computes with it, float32 elsewhere
PRECISION ?= $(shell if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 || grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null; then echo bf16-mixed; else echo 32-true; fi)
ARGS      ?=
PYTHON    ?= python3

VENV := .venv
BIN  := $(VENV)/bin
# albumentations would ask the network for a newer version; nothing here does without being told to
export NO_ALBUMENTATIONS_UPDATE := 1
export PYTHONUNBUFFERED := 1
# waiting threads sleep instead of spinning: a loader process on one of their cores would else slow training threefold
export OMP_WAIT_POLICY ?= passive

# The one place that fixes the order of the layers: a later file goes over an earlier one.
recipe = $(wildcard experiments/$(METHOD)/$(1)/model.yaml experiments/$(METHOD)/$(1)/$(2).yaml)
layers = $(patsubst %,experiments/%.yaml,base $(1) data/$(DATA) $(METHOD)/model $(METHOD)/$(1)) $(foreach r,$(RECIPE),$(call recipe,$(r),$(1)))
fit    = $(BIN)/python -m lightning_vos fit $(addprefix --config ,$(call layers,$(1))) \
	--data.root=$(DATA_ROOT) --trainer.default_root_dir=runs/$(RUN)/$(1) --trainer.precision=$(PRECISION) --ckpt_path=last

one_of = $(if $(filter-out $(2),$(or $($(1)),nothing)),$(error $(1)=$($(1)): choose from $(2)))
ifneq ($(filter train static video eval,$(MAKECMDGOALS)),)
$(call one_of,METHOD,$(patsubst experiments/%/model.yaml,%,$(wildcard experiments/*/model.yaml)))
$(call one_of,DATA,$(patsubst experiments/data/%.yaml,%,$(wildcard experiments/data/*.yaml)))
$(call one_of,STAGE,static video all)
$(if $(RECIPE),$(call one_of,RECIPE,$(patsubst experiments/$(METHOD)/%/,%,$(dir $(wildcard experiments/$(METHOD)/*/model.yaml)))))
endif

.PHONY: help train static video eval test lint format clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'
	@echo "  variables: METHOD=$(METHOD) DATA=$(DATA) DATA_ROOT=$(DATA_ROOT) STAGE=$(STAGE) RECIPE=$(RECIPE) RUN=$(RUN) CKPT=... ARGS=\"--model.lr=2e-5 ...\""

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing requirements.txt into $(VENV): several GB, some minutes"
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

train: ## train METHOD on DATA (STAGE=static|video|all); all: both stages, then eval
ifeq ($(STAGE),all)
	@$(MAKE) --no-print-directory static
	@$(MAKE) --no-print-directory video WEIGHTS=runs/$(RUN)/static/checkpoints/last.ckpt
	@$(MAKE) --no-print-directory eval
else
	@$(MAKE) --no-print-directory $(STAGE)
endif

static: $(VENV)/installed ## stage one only: clips made of still images
	$(call fit,static) $(ARGS)

video: $(VENV)/installed ## stage two only: clips of videos, from WEIGHTS=<checkpoint of stage one> if given
	$(call fit,video) $(if $(WEIGHTS),--model.weights=$(WEIGHTS)) $(ARGS)

eval: $(VENV)/installed ## score CKPT on the validation set of DATA
	$(BIN)/python -m lightning_vos validate $(patsubst %,--config experiments/%.yaml,base video data/$(DATA) $(METHOD)/model) \
		--data.root=$(DATA_ROOT) --trainer.default_root_dir=runs/$(RUN)/eval --trainer.precision=$(PRECISION) \
		--trainer.logger=false --ckpt_path=$(CKPT) $(ARGS)

test: $(VENV)/installed ## the test suite, with coverage
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report

lint: $(VENV)/installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what training and tests left, data and runs excepted
	rm -rf .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
