# SPDX-License-Identifier: Apache-2.0
# Needs Python 3.11, g++, make and perl; every other tool is a pinned PyPI package in .venv.

PYTHON ?= python3
# Further options of pip. On Linux, PyPI's torch brings 3 GB of CUDA; the small build comes with
#   make setup PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_EXTRA ?=
# Workers of pytest.
JOBS ?= 2
# Of `make regress`: another seed makes other networks.
SEED ?= 1
COUNT ?= 100
# Hostile files of each kind.
FUZZ ?= 170000
TARGETS ?= sim-tiny peer-64 peer-256 ulx3s-85f zynq-7020 zu7ev
# Injected faults; mutants of the RTL, and of the golden model and the compiler.
FAULTS ?= 10000
MUTANTS ?= 400
SIGNOFF := out/signoff

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/setup.stamp

.PHONY: help setup demo test regress formal bench docs lint format tree types clean distclean

help:
	@echo "make setup    create .venv with everything (quick when nothing changed)"
	@echo "make demo     classify real images on the simulated accelerator, bit-exact; out/demo/index.html"
	@echo "make test     all tests, under 20 minutes on 2 cores"
	@echo "make regress  the long regression: networks, proofs, faults, coverage, mutants, one page"
	@echo "make formal   proofs by k-induction: generator, streams, sequencer, AXI handshakes"
	@echo "make bench    speed of the search, the golden model, the simulated accelerator and the driver"
	@echo "make docs     the documentation as a site, with a report: out/docs/index.html"
	@echo "make lint     style;  make types  static types;  make format  rewrite files"
	@echo "make clean    remove what the build made, but .venv;  make distclean  that too"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "Python 3.11 or newer is needed, not %d.%d: make PYTHON=python3.11" % v[:2])'
	@for tool in g++ make perl; do command -v $$tool >/dev/null || { echo "$$tool is needed and was not found" >&2; exit 1; }; done
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt $(PIP_EXTRA) --editable ".[all]"
	@touch $@

demo: setup
	$(BIN)/hiddenfold demo

test: setup
	$(BIN)/python -m pytest -q -n $(JOBS)

# Everything that verification has to say, in one page: out/signoff/index.html. Takes hours; SEED=,
# COUNT=, TARGETS=, FUZZ=, FAULTS= and MUTANTS= choose. JOBS steps run at a time; one that fails does
# not stop the others, and `make regress-NAME` repeats it.
REGRESS := python mutants tests coverage second $(addprefix networks-,$(TARGETS)) faults fuzz planted formal
regress: setup
	@$(MAKE) --no-print-directory -k -j $(JOBS) $(addprefix regress-,$(REGRESS)); status=$$?; \
	$(BIN)/python -m hiddenfold.verif.signoff.report $(SIGNOFF) && exit $$status

$(addprefix regress-,$(REGRESS)): setup | $(SIGNOFF)

$(SIGNOFF):
	@mkdir -p $@

regress-tests:
	$(BIN)/python -m pytest -q -n $(JOBS) --junitxml=$(SIGNOFF)/junit.xml

regress-fuzz:
	$(BIN)/python -m hiddenfold.verif.fuzz --first $(SEED)000000 --count $(FUZZ) \
		--json $(SIGNOFF)/fuzz.json

regress-second:
	$(BIN)/python -m hiddenfold.verif.second --model models/hfn-cifar100.hfn \
		--seed $(SEED) --count $(COUNT) --targets $(TARGETS) --json $(SIGNOFF)/second.json

regress-networks-%:
	$(BIN)/hiddenfold verify --target $* --seed $(SEED) --count $(COUNT) \
		--failures $(SIGNOFF)/failures --json > $(SIGNOFF)/networks-$*.json

regress-formal:
	$(BIN)/python -m hiddenfold.verif.formal out/formal; status=$$?; \
	cp out/formal/proofs.json $(SIGNOFF) && exit $$status

regress-faults:
	$(BIN)/python -m hiddenfold.verif.signoff.campaign --seed $(SEED) --count $(FAULTS) \
		--json $(SIGNOFF)/faults.json

regress-coverage:
	$(BIN)/python -m hiddenfold.verif.signoff.collect --seed $(SEED) --count $(COUNT) \
		--folder $(SIGNOFF)

regress-mutants:
	$(BIN)/python -m hiddenfold.verif.signoff.mutation --count $(MUTANTS) \
		--folder $(SIGNOFF)/mutants --json $(SIGNOFF)/mutants.json

regress-python:
	$(BIN)/python -m hiddenfold.verif.signoff.python_mutation --count $(MUTANTS) \
		--json $(SIGNOFF)/python_mutants.json

regress-planted:
	$(BIN)/python -m hiddenfold.verif.signoff.planted --json $(SIGNOFF)/planted.json

bench: setup
	$(BIN)/python -m hiddenfold.verif.bench.speed
	$(BIN)/python -m hiddenfold.verif.bench.driver_speed
	$(BIN)/python -m hiddenfold.verif.bench.table

docs: setup tree
	$(PIP) install --quiet --constraint constraints.txt $(PIP_EXTRA) --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/hiddenfold report -o out/docs/report

formal: setup
	$(BIN)/python -m hiddenfold.verif.formal out/formal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Static tools do not follow the import hook of an editable install: show them the packages as links.
tree:
	@mkdir -p build/types/hiddenfold/verif
	@for folder in hw gen sw $(patsubst %/__init__.py,%,$(wildcard verif/*/__init__.py)); do \
		ln -sfn $(CURDIR)/$$folder build/types/hiddenfold/$$folder; \
	done

types: setup tree
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p hiddenfold

clean:
	rm -rf build dist out .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
