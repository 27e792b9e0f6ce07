# Two commands for a newcomer: `make e1` runs the first experiment, `make test` proves that everything holds.
PYTHON ?= python3.11
BACKBONE ?= mamba
BIN := .venv/bin

.PHONY: e1 test clean

e1: .venv/installed
	$(BIN)/papermill nbs/21_e1.ipynb out.ipynb -p backbone $(BACKBONE)
	@echo "report: out.ipynb (open it with $(BIN)/jupyter lab out.ipynb)"

test: .venv/installed
	$(BIN)/pytest

.venv/installed: settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e ".[dev,lines]"
	touch $@

clean:
	rm -rf .venv .cache out.ipynb
