# make demo   encode a photograph, decode it in another process, show numbers and a picture
# make test   all tests
# make quick  all but the slow ones
# make lint   the linter, the formatter and the type checker, changing nothing
# make docs   the documentation as a site: site/index.html; a link that leads nowhere is an error
#
# All of them first make .venv and install requirements.txt into it, once; again when requirements.txt changes.
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PHOTO := docs/images/kodim23.png
OUT := demo_out

.PHONY: demo test quick lint docs clean

demo: $(STAMP)
	@mkdir -p $(OUT)
	@echo "--- encode (a first run compiles)"
	$(BIN)/python -m airjax encode $(PHOTO) -o $(OUT)/photo.air --force
	@echo "--- decode, in another process, from the file alone"
	$(BIN)/python -m airjax decode $(OUT)/photo.air -o $(OUT)/decoded.png --force
	@echo "--- compare"
	$(BIN)/python -m eval.image.demo $(PHOTO) $(OUT)/photo.air $(OUT)/decoded.png -o $(OUT)/picture.png

# Most of the time is compiling: a worker per core, programs are kept inside .venv for the other files, processes and
# runs that need them, and XLA optimises little, except where results are compared with stored ones. Temporary files
# stay inside .venv as well.
PYTEST := TMPDIR="$$PWD/$(VENV)/tmp" PYTHONDONTWRITEBYTECODE= \
  JAX_COMPILATION_CACHE_DIR="$$PWD/$(VENV)/programs" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
  $(BIN)/python -m pytest -n auto --dist worksteal
OPTIMISE_LITTLE = XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true $(OF_0.10)"
# A flag that jaxlib does not know ends the process, and 0.11 and 0.12 do not know these.
OF_0.10 = $(if $(shell ls -d $(VENV)/lib/python3*/site-packages/jaxlib-0.10.* 2>/dev/null),\
  --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1)
STORED := tests/test_golden.py

test: $(STAMP)
	@mkdir -p $(VENV)/tmp
	$(OPTIMISE_LITTLE) $(PYTEST) $(STORED:%=--ignore=%)
	$(PYTEST) $(STORED)

quick: $(STAMP)
	@mkdir -p $(VENV)/tmp
	$(OPTIMISE_LITTLE) $(PYTEST) -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/zensical build --strict

clean:
	rm -rf $(VENV) $(OUT) site .pytest_cache .ruff_cache

$(STAMP): requirements.txt
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) \
	  and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) \
	  and "Python 3.11 or newer is needed, $(VENV) has " + sys.version.split()[0] + "; make clean, then try again")'
	@mkdir -p $(VENV)/tmp
	@echo "installing requirements.txt into $(VENV): some minutes, once"
	TMPDIR="$$PWD/$(VENV)/tmp" $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
