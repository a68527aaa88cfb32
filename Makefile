# make demo | test | quick | lint | clean. Everything happens in .venv; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
DEMO ?= runs/digits-mlp
DEMO_SET ?=

.PHONY: demo test quick lint clean

demo: .venv/installed
	.venv/bin/oracle search digits-mlp --out $(DEMO) $(addprefix --set ,$(DEMO_SET))
	.venv/bin/silo-fit report $(DEMO)

test: .venv/installed
	.venv/bin/python -m pytest -n 2 --dist loadgroup

quick: .venv/installed
	.venv/bin/python -m pytest -n 2 --dist loadgroup -m "not slow" -q

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: set PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
