# All that contributors and newcomers run. Needs Python 3.11 or later, and make.

PYTHON ?= python3
PY := .venv/bin/python

.PHONY: help demo demo-real test lint bench mutants golden tables seeds matrix kills \
	replays wheel-check clean

help:
	@echo "make demo         write the built-in training script and run it (1-2 minutes)"
	@echo "make test         run every test"
	@echo "make lint         formatting, lint and types"
	@echo "make bench        every stated limit, measured, in one table (about 30 minutes)"
	@echo "make mutants      change the maths one place at a time; the tests must notice"
	@echo "make golden       write the golden files anew"
	@echo "make tables       write the tables made from the pinned libraries anew"
	@echo "make seeds        the built-in run with ten seeds (about 15 minutes)"
	@echo "make matrix       SFT and GRPO on every model type (20 to 40 minutes)"
	@echo "make kills        60 kills at random moments must leave no trace (about 20 minutes)"
	@echo "make replays      100 honest replays, 100 forgeries to be found (about 10 minutes)"
	@echo "make demo-real    GRPO with CARL on a pretrained model (about 10 minutes)"
	@echo "make wheel-check  the wheel, installed alone, writes the same script"

# One environment; a stamp for each set of packages says that they are installed.
.venv/train.stamp: EXTRAS := train
.venv/dev.stamp: EXTRAS := train,dev
.venv/train.stamp .venv/dev.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "error: $(PYTHON) is not Python 3.11 or later" >&2; \
	echo "  fix: install one and name it: make PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: .venv/train.stamp
	rm -rf build/demo && mkdir -p build/demo
	.venv/bin/carl bundle > build/demo/train.py
	cd build/demo && ../../$(PY) train.py

demo-real: .venv/train.stamp
	$(PY) -m tools.demo_real

seeds: .venv/train.stamp
	$(PY) -m tools.seeds

matrix: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(PY) -m tools.matrix --shard $(or $(SHARD),0/1)

kills: .venv/dev.stamp
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m tools.kills $(if $(SEED),--seed $(SEED))

replays: .venv/dev.stamp
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m tools.replays $(if $(SEED),--seed $(SEED))

test: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

lint: .venv/dev.stamp
	$(PY) -m black --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: .venv/dev.stamp
	$(PY) -m benchmarks

mutants: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(PY) -m tools.mutants

golden: .venv/dev.stamp
	$(PY) -m tools.make_golden $(CASES)

tables: .venv/dev.stamp
	$(PY) -m tools.make_tables

wheel-check: .venv/dev.stamp
	$(PY) -m tools.check_wheel

clean:
	rm -rf build dist .venv
