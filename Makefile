# Two commands for a newcomer: `make e1` runs the first experiment (its row goes to .cache/e1, those in results/ stay), `make test` proves that everything holds.
PYTHON ?= python3
VENV ?= .venv
BACKBONE ?= mamba

.PHONY: e1 test readme site clean

e1: $(VENV)/installed
	$(VENV)/bin/papermill nbs/21_e1.ipynb out.ipynb -p backbone $(BACKBONE) -p out_dir .cache/e1
	@echo "The report is out.ipynb; open it with $(VENV)/bin/jupyter lab out.ipynb"

test: $(VENV)/installed
	$(VENV)/bin/pytest

$(VENV)/installed: settings.ini setup.py constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --no-compile -c constraints.txt -e ".[dev,lines,sources,sweep,transfer]"
	touch $@

# README.md is nbs/index.ipynb without its code
readme: $(VENV)/installed
	$(VENV)/bin/jupyter nbconvert --to markdown --no-input --output-dir . --output README.md nbs/index.ipynb
	sed -i 's|](images/|](nbs/images/|' README.md

# The site in _proc/_docs; needs Quarto
site: $(VENV)/installed
	PATH="$(abspath $(VENV))/bin:$$PATH" python docs/prepare.py
	quarto render _proc

clean:
	rm -rf .venv .cache _proc out.ipynb
