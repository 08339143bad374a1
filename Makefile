# Every target does its own set-up; see README.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
export FIFTYONE_DO_NOT_TRACK ?= true
export FIFTYONE_DATABASE_VALIDATION ?= false

.PHONY: demo test bench lint clean setup browser tiny screenshots

setup: $(STAMP)

$(STAMP): pyproject.toml tools/setup_env.sh
	bash tools/setup_env.sh $(VENV)
	@touch $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/fiftyone-rexseek demo

browser: $(STAMP)
	-bash tools/ensure_browser.sh

# The browser's event loop stays alive in its process, so the App tests have processes of their own. Both parts run, whatever
# comes of the first. Groups of App tests start in the order of tests/app/conftest.py: in that of xdist, by number, the longest came last.
test: $(STAMP) browser
	@status=0; set -x; \
	$(PY) -m pytest -n 2 --dist loadfile --ignore tests/app || status=$$?; \
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/app || status=$$?; \
	exit $$status

lint: $(STAMP)
	$(VENV)/bin/ruff check .

bench: $(STAMP)
	$(PY) -m benchmarks

# The pictures of docs/app.md.
screenshots: $(STAMP) browser
	$(PY) -m pytest tests/app/screenshots.py

tiny: $(STAMP)
	$(PY) -m fiftyone_rexseek.training.tiny

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis demo runs tests/screenshots
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
