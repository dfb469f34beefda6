# make run: the environment, then the notebooks. make help: the rest.
PYTHON  ?= python3
NB      ?=
PROFILE ?= lite
SEED    ?= 0
RESULTS ?= results
DATA    ?=
SEEDS   ?= 0 1 2

VENV      := .venv
BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE  := $(VENV)/.installed_test
PRETRAINED := $(VENV)/.installed_photo
PHOTO_OPTIONS = --profile photo --out "$(RESULTS)" $(foreach seed,$(SEEDS),--seed $(seed))
# Byte code is written at first import, for what is imported; compiling all of it now costs most of a minute. So it must
# be kept: where containers forbid that, each of the many processes would compile torch anew, for seconds.
export PYTHONDONTWRITEBYTECODE :=
PIP       := $(BIN)/python -m pip install --disable-pip-version-check --no-compile

# Rendered data sets, which have a hash of their settings in their names; what you downloaded or trained stays.
HEX := [0-9a-f][0-9a-f][0-9a-f][0-9a-f]
RENDERED := $(foreach set,coco voc camvid kitti cars talk2car,data/$(set)_$(HEX)$(HEX)$(HEX) data/.$(set)_*)

.PHONY: help run photo install test lint lab clean
.DELETE_ON_ERROR:

help:
	@echo "make run      install once, then execute the notebooks: all, or NB=03 (several: NB='03 05')"
	@echo "              PROFILE=smoke|lite|photo|full  SEED=0 or 0,1,2  RESULTS=folder  DATA=root of a real data set"
	@echo "make photo    train on photographs: DATA_VOC=VOCdevkit DATA_CAMVID=folder DATA_CARS=folder, any of them; SEEDS='0 1 2'"
	@echo "make install  only the environment, in $(VENV) (PYTHON=python3.12 picks the interpreter)"
	@echo "make test     lint and all tests, three files at a time"
	@echo "make lint     only the house rules: ruff, import-linter, pyright"
	@echo "make lab      open the notebooks in JupyterLab"
	@echo "make clean    remove $(VENV), rendered data and caches; results and downloads stay"

run: $(INSTALLED)
	@$(BIN)/kdnb run $(NB) --profile $(PROFILE) --seeds $(SEED) --out "$(RESULTS)" $(if $(DATA),-p DATA "$(DATA)")

# Every number of the README's tables of photographs: three projects, each with these seeds.
photo: $(PRETRAINED)
	$(if $(DATA_VOC),$(BIN)/python -m kdnb.projects.voc_defeat --data "$(DATA_VOC)" $(PHOTO_OPTIONS))
	$(if $(DATA_CAMVID),$(BIN)/python -m kdnb.projects.camvid_prompt_kd --data "$(DATA_CAMVID)" $(PHOTO_OPTIONS))
	$(if $(DATA_CARS),$(BIN)/python -m kdnb.projects.car_kfold --data "$(DATA_CARS)" $(PHOTO_OPTIONS))

install: $(INSTALLED)

test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(TESTABLE)
	$(BIN)/ruff check kdnb tests notebooks
	$(BIN)/ruff format --check kdnb tests notebooks
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

lab: $(INSTALLED)
	$(BIN)/jupyter lab --notebook-dir=notebooks

clean:
	rm -rf $(VENV) kdnb.egg-info build test-artifacts .pytest_cache .ruff_cache .import_linter_cache
	rm -rf $(RENDERED)
	find kdnb tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "kdnb needs Python 3.10 or newer, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 | tail -n 1)." \
	         "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# The stamps are touched last, so the next call resumes an interrupted installation.
$(INSTALLED): pyproject.toml | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(TESTABLE): pyproject.toml | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $(INSTALLED) $@

$(PRETRAINED): pyproject.toml | $(BIN)/python
	$(PIP) -e '.[photo]'
	@touch $(INSTALLED) $@
