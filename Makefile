# Lightning VOS. `make help` lists the targets; every target prints the command that it runs.

METHOD    ?= remn
DATA      ?= demo
DATA_ROOT ?= data
# all = static, video and, unless video ended with it, eval; online: first-frame training, on demand
STAGE     ?= all
# settings on top of the method's own: experiments/<method>/<recipe>/{model,<stage>}.yaml, for each recipe in turn
RECIPE    ?= $(if $(filter demo,$(DATA)),small demo)
RUN       ?= $(METHOD)-$(DATA)$(if $(filter-out demo,$(DATA)),$(if $(RECIPE),-$(firstword $(RECIPE))))
# where runs lie; on a cluster a folder that all nodes see
RUNS      ?= runs
CKPT      ?= $(RUNS)/$(RUN)/video/checkpoints/last.ckpt
WEIGHTS   ?=
# checkpoints of any methods for make compare, PATH or NAME=PATH
CKPTS     ?= $(CKPT)
# jobs: nodes, GPUS and processes (DEVICES) of each node, cpus of a process, limit, seconds of notice before it
NODES     ?= 1
GPUS      ?= 1
DEVICES   ?= $(or $(filter-out 0,$(GPUS)),1)
CPUS      ?= 8
TIME      ?= 24:00:00
PARTITION ?=
NOTICE    ?= 300
# a job that must end well first; further options of sbatch, such as --account=...
AFTER     ?=
SBATCH    ?=
# sweeps: entity/project/id as `make sweep` prints it, number of trials, what runs one
SWEEP     ?=
COUNT     ?= 1
AGENT     ?= $(BIN)/wandb agent --count 1
# bfloat16 where the processor computes with it, float32 elsewhere; jobs: bfloat16 on GPUs
PRECISION ?= $(if $(filter slurm agents,$(MAKECMDGOALS)),$(if $(filter-out 0,$(GPUS)),bf16-mixed,32-true),$(default_precision))
default_precision = $(shell if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 || grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null; then echo bf16-mixed; else echo 32-true; fi)
ARGS      ?=
# of predict
VIDEO     ?=
MASK      ?=
OUT       ?= predictions
DIRECTION ?= forward
PYTHON    ?= python3

VENV := .venv
BIN  := $(VENV)/bin
# albumentations would ask the network for a newer version; nothing here does without being told to
export NO_ALBUMENTATIONS_UPDATE := 1
export PYTHONUNBUFFERED := 1
# waiting threads spin for half a millisecond, then sleep: sleeping at once costs a fifth of a training step on two cores,
# spinning for long slows training where loader processes share the cores
export GOMP_SPINCOUNT ?= 30000

# The one place that fixes the order of the layers: a later file goes over an earlier one.
recipe = $(wildcard experiments/$(METHOD)/$(1)/model.yaml experiments/$(METHOD)/$(1)/$(2).yaml)
layers = $(patsubst %,experiments/%.yaml,base $(1) data/$(DATA) $(METHOD)/model $(METHOD)/$(1)) $(foreach r,$(RECIPE),$(call recipe,$(r),$(1)))
fit    = $(launch) fit $(addprefix --config ,$(call layers,$(1))) \
	--data.root=$(DATA_ROOT) --trainer.default_root_dir=$(RUNS)/$(RUN)/$(1) --trainer.precision=$(PRECISION) --ckpt_path=last
launch = $(BIN)/python -m lightning_vos
# What a stage runs, ARGS and all.
static_command = $(call fit,static) $(ARGS)
video_command  = $(call fit,video) $(if $(WEIGHTS),--model.weights=$(WEIGHTS)) $(ARGS)
online_command = $(call fit,online) --model.weights=$(or $(WEIGHTS),$(RUNS)/$(RUN)/video/checkpoints/last.ckpt) $(ARGS)
eval_command   = $(launch) validate $(patsubst %,--config experiments/%.yaml,base video data/$(DATA) $(METHOD)/model) \
	--data.root=$(DATA_ROOT) --trainer.default_root_dir=$(RUNS)/$(RUN)/eval --trainer.precision=$(PRECISION) \
	--trainer.logger=false --ckpt_path=$(CKPT) $(ARGS)

one_of = $(if $(filter-out $(2),$(or $($(1)),nothing)),$(error $(1)=$($(1)): choose from $(2)))
no_space = $(foreach v,$(1),$(if $(word 2,$($(v))),$(error $(v)=$($(v)): a path with a space; give one without, such as a link to it)))
sets   = $(basename $(notdir $(wildcard $(1:%=experiments/%/*.yaml))))
ifneq ($(filter submission,$(MAKECMDGOALS)),)
$(call one_of,METHOD,$(patsubst experiments/%/model.yaml,%,$(wildcard experiments/*/model.yaml)))
$(call one_of,DATA,$(call sets,submission))
endif
ifneq ($(filter check-data,$(MAKECMDGOALS)),)
$(call one_of,DATA,$(sort $(call sets,data submission)))
endif
ifneq ($(filter compare,$(MAKECMDGOALS)),)
$(call one_of,DATA,$(call sets,data))
endif
ifneq ($(filter online,$(MAKECMDGOALS) $(STAGE)),)
$(call one_of,METHOD,$(patsubst experiments/%/online.yaml,%,$(wildcard experiments/*/online.yaml)))
endif
ifneq ($(filter train static video online eval predict check slurm agents command,$(MAKECMDGOALS)),)
$(call one_of,METHOD,$(patsubst experiments/%/model.yaml,%,$(wildcard experiments/*/model.yaml)))
$(call one_of,DATA,$(call sets,data))
$(call one_of,STAGE,static video all$(if $(filter check agents,$(MAKECMDGOALS)),, online)$(if $(filter slurm command,$(MAKECMDGOALS)), eval))
$(if $(RECIPE),$(call one_of,RECIPE,$(patsubst experiments/$(METHOD)/%/,%,$(dir $(wildcard experiments/$(METHOD)/*/model.yaml)))))
endif

# paths that are words of a command; predict and its CKPT may have spaces, CKPTS are a list
ifneq ($(filter train static video online eval submission compare check-data command check slurm agents,$(MAKECMDGOALS)),)
$(call no_space,RUN RUNS DATA_ROOT WEIGHTS $(if $(filter eval submission,$(MAKECMDGOALS)),CKPT))
endif

ifneq ($(filter predict,$(MAKECMDGOALS)),)
$(foreach v,VIDEO MASK,$(if $($(v)),,$(error $(v) is not set: make predict VIDEO=clip.mp4 MASK=first.png OUT=dir)))
$(call one_of,DIRECTION,forward backward both)
# the newest checkpoint of the method, unless CKPT is given
ifeq ($(origin CKPT),file)
CKPT := $(shell ls -t $(RUNS)/$(METHOD)-*/video/checkpoints/last.ckpt 2>/dev/null | head -n 1)
$(if $(CKPT),,$(error no checkpoint $(RUNS)/$(METHOD)-*/video/checkpoints/last.ckpt: make train METHOD=$(METHOD), or set CKPT))
endif
endif

.PHONY: help train static video online eval predict compare submission check-data command check slurm sweep agents sync test coverage lint format clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  variables: METHOD=$(METHOD) DATA=$(DATA) DATA_ROOT=$(DATA_ROOT) STAGE=$(STAGE) RECIPE=$(RECIPE) RUN=$(RUN) CKPT=... ARGS=\"--model.lr=2e-5 ...\""
	@echo "  and WEIGHTS RUNS PRECISION; predict: VIDEO MASK OUT DIRECTION; compare: CKPTS; slurm: NODES GPUS CPUS TIME PARTITION AFTER SBATCH"

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing requirements.txt into $(VENV): several GB, some minutes"
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

train: ## train METHOD on DATA (STAGE=static|video|all); all: both stages, and eval if the second did not end with one
ifeq ($(STAGE),all)
	@$(MAKE) --no-print-directory static
	@$(MAKE) --no-print-directory video WEIGHTS=$(RUNS)/$(RUN)/static/checkpoints/last.ckpt
	@test $(RUNS)/$(RUN)/video/results/global_results-val.csv -nt $(RUNS)/$(RUN)/video/checkpoints/last.ckpt || \
		$(MAKE) --no-print-directory eval
else
	@$(MAKE) --no-print-directory $(STAGE)
endif

static: $(VENV)/installed ## stage one only: clips made of still images
	$(static_command)

video: $(VENV)/installed ## stage two only: clips of videos, from WEIGHTS=<checkpoint of stage one> if given
	$(video_command)

online: $(VENV)/installed ## first-frame training: goes on from WEIGHTS (stage two's) on the given masks of the validation set
	$(online_command)

eval: $(VENV)/installed ## score CKPT on the validation set of DATA
	$(eval_command)

command: # what STAGE would run, for scripts
	@echo $(foreach part,$($(STAGE)_command),'$(part)')

dry_run = --trainer.default_root_dir=$$folder/$(1) --trainer.logger=false --ckpt_path=null \
	--trainer.callbacks+=callbacks.DryRun --trainer.callbacks.output=$$folder/rows.json

check: $(VENV)/installed ## before hour zero: heaviest steps of each stage, one video, all labels; memory, speed, hours
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(if $(filter static all,$(STAGE)),$(static_command) $(call dry_run,static) --trainer.callbacks.table=$(if $(filter all,$(STAGE)),false,true)) \
	$(if $(filter all,$(STAGE)),&&) $(if $(filter video all,$(STAGE)),$(video_command) $(call dry_run,video))

submit = $(BIN)/python -m experiments.slurm.submit --nodes=$(NODES) --devices=$(DEVICES) --gpus=$(GPUS) --cpus=$(CPUS) \
	--time=$(TIME) --partition=$(PARTITION) --notice=$(NOTICE) --options="$(SBATCH)"

slurm: $(VENV)/installed ## submit a job: NODES=1 GPUS=2 TIME=24:00:00 PARTITION=gpu; STAGE=all: one for each stage, in order
ifeq ($(STAGE),all)
	@static=$$($(MAKE) -s slurm STAGE=static) && \
	video=$$($(MAKE) -s slurm STAGE=video AFTER=$$static WEIGHTS=$(RUNS)/$(RUN)/static/checkpoints/last.ckpt) && \
	$(MAKE) -s slurm STAGE=eval AFTER=$$video
else
	@$(submit) --folder=$(RUNS)/$(RUN)/$(STAGE) --name=$(subst /,-,$(RUN))-$(STAGE) --after=$(AFTER) -- $($(STAGE)_command)
endif

sweep: $(VENV)/installed ## register experiments/METHOD/sweep.yaml at W&B
	$(BIN)/wandb sweep experiments/$(METHOD)/sweep.yaml

agents: $(VENV)/installed ## submit an array of COUNT trials of SWEEP=entity/project/id; NODES, GPUS, ... are those of a trial
	$(if $(SWEEP),,$(error SWEEP is empty: give entity/project/id, as make sweep prints it))
	@$(submit) --folder=$(RUNS)/sweeps/$(notdir $(SWEEP)) --name=sweep-$(notdir $(SWEEP)) --array=$(COUNT) --after=$(AFTER) -- \
		env STAGE=$(filter-out all,$(STAGE)) DATA=$(DATA) DATA_ROOT=$(DATA_ROOT) RECIPE="$(RECIPE)" WEIGHTS=$(WEIGHTS) \
		PRECISION=$(PRECISION) RUNS=$(RUNS) ARGS='$(ARGS)' $(AGENT) $(SWEEP)

sync: $(VENV)/installed ## upload what was logged offline; several parts of a run become one
	WANDB_RESUME=allow $(BIN)/wandb sync $$(find $(RUNS) -type d -path '*/wandb/offline-run-*' -prune)

predict: $(VENV)/installed ## masks and overlay of VIDEO from MASK, to OUT; DIRECTION=forward|backward|both; CKPT: the newest of METHOD
	$(BIN)/python -m lightning_vos predict $(patsubst %,--config experiments/%.yaml,base predict $(METHOD)/model) \
		"--data.video=$(VIDEO)" "--data.mask=$(MASK)" --data.direction=$(DIRECTION) "--trainer.default_root_dir=$(OUT)" \
		--trainer.precision=$(PRECISION) "--ckpt_path=$(CKPT)" $(ARGS)

compare: $(VENV)/installed ## evaluate CKPTS="a.ckpt b.ckpt ..." of any methods on DATA under one protocol: tables and a page
	$(BIN)/python -m lightning_vos.compare $(CKPTS) --out=$(RUNS)/compare-$(DATA) -- \
		$(patsubst %,--config experiments/%.yaml,base video data/$(DATA) compare) \
		--data.root=$(DATA_ROOT) --trainer.precision=$(PRECISION) $(ARGS)

submission: $(VENV)/installed ## masks of CKPT for the server of DATA (experiments/submission), zipped and checked
	$(BIN)/python -m lightning_vos test $(patsubst %,--config experiments/%.yaml,base video submission/$(DATA) $(METHOD)/model) \
		--data.root=$(DATA_ROOT) --trainer.default_root_dir=$(RUNS)/$(RUN)/submission --trainer.precision=$(PRECISION) \
		--ckpt_path=$(CKPT) $(ARGS)

check-data: $(VENV)/installed ## open every frame and mask of DATA, name what is wrong
	$(BIN)/python -m datamodules.check $(wildcard experiments/data/$(DATA).yaml experiments/submission/$(DATA).yaml) --root=$(DATA_ROOT) $(ARGS)

test: $(VENV)/installed ## the test suite
	$(BIN)/python -m pytest $(parallel)

coverage: $(VENV)/installed ## the test suite, and which lines it runs
	$(BIN)/python -m pytest $(parallel) --cov --cov-report=term

# three, also on two cores: tests of interrupted runs mostly wait
# a worker that dies ends the run: in place of it pytest-xdist starts another that may wait for ever
parallel = -n 3 --max-worker-restart=0 --dist=loadgroup --no-loadscope-reorder

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
