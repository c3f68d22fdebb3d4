# make demo   encode a photograph, decode it in another process, show numbers and a picture
# make test   all tests
# make lint   the linter, the formatter and the type checker, changing nothing
#
# All three first make .venv and install requirements.txt into it, once; again when requirements.txt changes.
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PHOTO := docs/images/kodim23.png
OUT := demo_out

.PHONY: demo test test-scene test-others lint clean

demo: $(STAMP)
	@mkdir -p $(OUT)
	@echo "--- encode (a first run compiles)"
	$(BIN)/python -m airjax encode $(PHOTO) -o $(OUT)/photo.air
	@echo "--- decode, in another process, from the file alone"
	$(BIN)/python -m airjax decode $(OUT)/photo.air -o $(OUT)/decoded.png --force
	@echo "--- compare"
	$(BIN)/python -m eval.image.demo $(PHOTO) $(OUT)/photo.air $(OUT)/decoded.png -o $(OUT)/picture.png

# Two halves of about equal length at a time: most of it is compiling, which keeps one core busy. Temporary files stay
# inside .venv as well.
test: $(STAMP)
	@mkdir -p $(VENV)/tmp
	@$(MAKE) --no-print-directory -j2 test-scene test-others

SCENE_TESTS := tests/scene tests/train tests/test_cli_scene.py

test-scene: $(STAMP)
	TMPDIR="$$PWD/$(VENV)/tmp" $(BIN)/python -m pytest $(SCENE_TESTS)

test-others: $(STAMP)
	TMPDIR="$$PWD/$(VENV)/tmp" $(BIN)/python -m pytest tests $(SCENE_TESTS:%=--ignore=%)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OUT) .pytest_cache .ruff_cache

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
