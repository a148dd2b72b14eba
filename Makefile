# Lightning VOS. `make help` lists the targets. What a run is, experiments/ knows: each target here is a command of
# `python -m experiments`, which takes these variables from the environment, prints what it runs and becomes it.

VARIABLES := METHOD DATA DATA_ROOT STAGE RECIPE EXPERIMENTS RUN RUNS CKPT CKPTS WEIGHTS PRECISION ARGS VIDEO MASK OUT DIRECTION PORT \
	NODES GPUS DEVICES CPUS TIME PARTITION NOTICE AFTER SBATCH SWEEP COUNT AGENT
# as they were typed: what looks like a variable of Make or of the shell in a path is none; those that come from the
# environment are handed on untouched by Make itself, so nothing here may expand one
$(foreach v,$(VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(eval export override $(v) := $$(value $(v)))))

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
run    := $(BIN)/python -m experiments

.PHONY: help train static video online eval predict annotate compare submission check-data command check slurm sweep agents sync \
	test test-fast coverage lint format clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  variables: METHOD=remn DATA=demo DATA_ROOT=data STAGE=all RECIPE=\"small demo\" RUN=... CKPT=... ARGS=\"--model.lr=2e-5 ...\""
	@echo "  and WEIGHTS RUNS PRECISION EXPERIMENTS; predict, annotate: VIDEO MASK OUT DIRECTION; compare: CKPTS; slurm: NODES GPUS CPUS TIME"
	@echo "  PARTITION AFTER SBATCH; $(run) slurm --help, for example, says what they mean"

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing requirements.txt into $(VENV): several GB, some minutes"
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

train: $(VENV)/installed ## train METHOD on DATA (STAGE=static|video|all); all: both stages, and eval if the second did not end with one
ifeq ($(or $(value STAGE),all),all)
	@$(run) static
	@$(run) video --from-static
	@$(run) eval --if-needed
else
	@$(run) train
endif

static: ## stage one only: clips made of still images
video: ## stage two only: clips of videos, from WEIGHTS=<checkpoint of stage one> if given
online: ## first-frame training: goes on from WEIGHTS (stage two's) on the given masks of the validation set
eval: ## score CKPT on the validation set of DATA
check: ## before hour zero: heaviest steps of each stage, one video, all labels; memory, speed, hours
slurm: ## submit a job: NODES=1 GPUS=2 TIME=24:00:00 PARTITION=gpu; STAGE=all: one for each stage, in order
sweep: ## register experiments/METHOD/sweep.yaml at W&B
agents: ## submit an array of COUNT trials of SWEEP=entity/project/id; NODES, GPUS, ... are those of a trial
sync: ## upload what was logged offline; several parts of a run become one
predict: ## masks and overlay of VIDEO from MASK, to OUT; DIRECTION=forward|backward|both; CKPT: METHOD's released network, else its newest
annotate: ## a page in the browser: paint masks of VIDEO (or begin with MASK), propagate, mend; to OUT as predict; PORT
compare: ## evaluate CKPTS="a.ckpt b.ckpt remn ..." of any methods on DATA under one protocol: tables and a page
submission: ## masks of CKPT for the server of DATA (experiments/submission), zipped and checked
check-data: ## open every frame and mask of DATA, name what is wrong
command: # what STAGE would run, for scripts
static video online eval check slurm sweep agents sync predict annotate compare submission check-data command: $(VENV)/installed
	@$(run) $@

# the same as experiments/launch.py gives to a run
test test-fast coverage: export NO_ALBUMENTATIONS_UPDATE := 1
test test-fast coverage: export GOMP_SPINCOUNT ?= 30000

test: $(VENV)/installed ## the test suite
	$(BIN)/python -m pytest $(parallel)

test-fast: $(VENV)/installed ## the test suite without the tests that take long
	$(BIN)/python -m pytest $(parallel) -m "not slow"

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
