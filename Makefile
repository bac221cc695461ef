# The commands of the project. `make` alone lists them.
#
# Whatever is needed is installed into .venv, in stages: what the book needs, then what the checks need, then
# what all tests need. A stage that is complete has left a stamp there (.venv/.book and so on), written last.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.NOTPARALLEL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PORT ?= 8000#             where make run serves the book
PYTHON ?=#                the Python to make the environment with; found if not given
UV ?= $(shell command -v uv)#  used instead of pip where it is there; UV= for pip

VENV := .venv
PY := $(VENV)/bin/python
RUN := $(VENV)/bin/scratchlm
unexport PYTHONPATH PYTHONHOME
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

define FUNCTIONS
fail() { echo "make: $$*" >&2; exit 1; }
version() { "$$1" -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null || echo 0 0; }
endef

help:  ## list these commands
	echo "make COMMAND, where COMMAND is one of"
	sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

run: port $(VENV)/.exported  ## build the book, serve it on http://127.0.0.1:8000 (PORT=8001 for another port), chat page included
	$(RUN) book --serve --port $(PORT)

test: $(VENV)/.dev rules data  ## check, run every chapter's tests afresh, and run all other tests
	$(RUN) tree --run --verify --but-grants
	$(PY) -m pytest tests --earn-grants -n 2 --dist loadfile

test-all: $(VENV)/.dev  ## the same, and the tests with a model of 400 MB, which it fetches
	$(RUN) pull qwen2.5-coder-0.5b >/dev/null
	$(MAKE) test

check: $(VENV)/.check rules  ## the quick checks: tree rules, drift, ruff, unit tests
	$(PY) -m pytest tests/unit -n 2

book: $(VENV)/.exported  ## build the book into _book/
	$(RUN) book

edit: $(VENV)/.edit $(VENV)/.hooks  ## open the notebooks in JupyterLab
	export JUPYTER_CONFIG_PATH="$(CURDIR)/$(VENV)/etc/.jupyter" PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
	root=; [ "$$(id -u)" != 0 ] || root=--allow-root  # in a container, say; Jupyter asks for a token in any case
	jupyter lab $$root --LabApp.default_url=/lab/tree/nbs

export: $(VENV)/.book  ## write the library, and all else that is generated, from the notebooks
	$(VENV)/bin/nbdev_export
	$(RUN) tree --write
	touch $(VENV)/.exported

outputs: $(VENV)/.dev export data  ## run every changed chapter and store its new outputs in the notebook
	$(RUN) tree --run --save --write

clean:  ## remove what was built, and all caches
	rm -rf _book ._book-* _proc build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . \( -path ./$(VENV) -o -path ./.git \) -prune -o \( -name __pycache__ -o -name .hypothesis -o -name .ipynb_checkpoints -o -name .pytest_cache \) -prune -exec rm -rf {} +

distclean: clean  ## the same, and the environment
	rm -rf $(VENV) .gitconfig
	git config --local --unset include.path '^\.\./\.gitconfig$$' 2>/dev/null || true

.PHONY: help run test test-all check book edit export outputs clean distclean port rules data anew

port:
	$(FUNCTIONS)
	[[ "$(PORT)" =~ ^[1-9][0-9]{0,4}$$ ]] && (( $(PORT) < 65536 )) || fail "PORT must be a number from 1 to 65535, not '$(PORT)'"
	if (exec 3<>/dev/tcp/127.0.0.1/$(PORT)) 2>/dev/null; then
		fail "port $(PORT) is taken by another program; choose another one, as in: make run PORT=$$(( $(PORT) + 1 ))"
	fi

# What is made from the notebooks, if anything has changed that it is made from, or that was made.
$(VENV)/.exported: $(VENV)/.book $(wildcard nbs/*.* nbs/*/*.ipynb scratchlm/*.py scratchlm/*/*.py _quarto.yml)
	$(MAKE) export

# What the chapters read and load; fetched once, and kept in the user's cache.
data: $(VENV)/.dev
	$(RUN) pull corpus code digits humaneval smollm2-135m >/dev/null

rules: $(VENV)/.check
	$(RUN) check
	$(VENV)/bin/ruff check --quiet .

# The environment. It counts only if it was completed, in this folder, and with the Python asked for; anything
# else, half made or moved or copied, is made anew.
define WHOLE
	$(FUNCTIONS)
	[ "$$(cat $(VENV)/.made 2>/dev/null)" = "$(CURDIR)" ] && $(PY) -c '' 2>/dev/null || exit 0
	[ -z "$(PYTHON)" ] || [ "$$(version "$(PYTHON)")" = "$$(version $(PY))" ] || exit 0
	echo yes
endef
ifneq ($(shell $(WHOLE)),yes)
$(VENV)/.made: anew
endif

$(VENV)/.made:
	$(FUNCTIONS)
	python= bare= old= newer=
	for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do
		read -r major minor < <(version "$$candidate")
		if (( major != 3 || minor < 11 )); then
			(( major == 0 )) || old="$${old:-$$candidate is Python $$major.$$minor}"
		elif [ -z "$(UV)" ] && ! "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
			bare="$${bare:-$$candidate}"
		elif (( minor > 13 )); then
			newer="$${newer:-$$candidate}"  # nobody has tried it with this book: only if there is nothing else
		else
			python="$$candidate"; break
		fi
	done
	python="$${python:-$$newer}"
	if [ -z "$$python" ]; then
		[ -z "$$bare" ] || fail "$$bare cannot make environments: install its venv module (on Debian: apt install $${bare##*/}-venv)"
		fail "no Python 3.11 or newer found$${old:+ ($$old)}: install python3.11, 3.12 or 3.13, or name one, as in: make $(or $(MAKECMDGOALS),run) PYTHON=/path/to/python3"
	fi
	echo "making the environment in $(VENV) with $$("$$python" -V)"
	rm -rf $(VENV)
	if [ -n "$(UV)" ]; then "$(UV)" venv --quiet --python "$$python" $(VENV); else "$$python" -m venv $(VENV); fi
	printf %s "$(CURDIR)" > $(VENV)/.made

# A stage: pip is resumed where it was interrupted, after whatever it left half installed is thrown away.
define INSTALL
	$(FUNCTIONS)
	SECONDS=0
	if [ -e $(VENV)/.installing ]; then
		echo "an earlier set-up was interrupted: resuming it"
		$(PY) -I -c "$$MEND"
	fi
	touch $(VENV)/.installing
	if [ -n "$(UV)" ]; then
		"$(UV)" pip install --python $(PY) -e ".[$(STAGE)]" || fail "installing failed (see above); the same command resumes it"
	else
		printf 'installing $(WHAT) '
		$(PY) -m pip install --no-input --use-pep517 --progress-bar off -e ".[$(STAGE)]" | while read -r word next _; do
			case "$$word $$next" in Collecting*|Downloading*|Using*) printf . ;; "Installing collected") printf ' unpacking ' ;; esac
		done || { echo; fail "installing failed (see above); the same command resumes it"; }
	fi
	rm $(VENV)/.installing
	touch $(IMPLIED:%=$(VENV)/.%)
	echo "done in $$SECONDS s"
endef

define MEND
import shutil
from importlib.metadata import distributions
for package in distributions():
    if package.files is None or not all(file.locate().exists() for file in package.files):
        shutil.rmtree(package._path)
endef
export MEND

# STAGE is the extra to install, IMPLIED the stages that are complete with it.
$(VENV)/.book: STAGE := book
$(VENV)/.book: IMPLIED := book
$(VENV)/.book: WHAT := what the book needs (some 70 packages, about a minute)

$(VENV)/.check: STAGE := check
$(VENV)/.check: IMPLIED := book check
$(VENV)/.check: WHAT := what the checks need (about a minute)

$(VENV)/.dev: STAGE := dev
$(VENV)/.dev: IMPLIED := book check dev
$(VENV)/.dev: WHAT := what all tests need (PyTorch among it: some minutes)

$(VENV)/.edit: STAGE := edit
$(VENV)/.edit: IMPLIED := book edit
$(VENV)/.edit: WHAT := JupyterLab

$(VENV)/.book $(VENV)/.check $(VENV)/.dev $(VENV)/.edit: $(VENV)/.made settings.ini setup.py
	$(INSTALL)

# nbdev's hooks keep outputs and drop the rest of what Jupyter writes into notebooks. They are kept inside .venv, and
# name their programs by full path, so that neither the home directory nor git outside the environment is affected.
$(VENV)/.hooks: $(VENV)/.edit
	mkdir -p $(VENV)/etc
	HOME="$(CURDIR)/$(VENV)/etc" $(VENV)/bin/nbdev_install_hooks
	rm $(VENV)/etc/.jupyter/jupyter_notebook_config.py  # or the hook is there twice
	sed -i "s|driver = nbdev_merge|driver = '$(CURDIR)/$(VENV)/bin/nbdev_merge'|" .gitconfig
	sed -i "s|^nbdev_trust|'$(CURDIR)/$(VENV)/bin/nbdev_trust'|" "$$(git rev-parse --git-path hooks)/post-merge"
	touch $@
