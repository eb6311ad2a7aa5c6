# Needs Python 3.11 (or newer) and make; everything else is set up into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: demo test test-slow test-sweeps test-slurm test-extras lint clean results oracles bench

demo: $(READY)            ## the embedded experiment: table, csv and HTML report in ./demo
	$(BIN)/lfpm-bench demo

# Bytecode is kept, whatever the environment says: dozens of processes would compile all modules anew.
test: $(READY)            ## the whole fast suite
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY)       ## minutes to an hour: re-create the weights, other seeds, kill and restart
	$(BIN)/python -m pytest -n 2 -m 'slow and not slurm' --timeout 5400

test-sweeps: $(READY)     ## a sweep of 1,000 made-up cells, two runs at once, ten of them killed (minutes)
	$(BIN)/python -m pytest -m slow -v --durations=1 tests/test_sweeps.py

# Root starts the daemons, on loopback and below one folder in /tmp; all of them are stopped again.
test-slurm: $(READY)      ## launcher=slurm on a real Slurm of two nodes; installs it by apt-get (210 MB) where missing
	$(BIN)/python -m tests.slurm.cluster install
	$(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m pytest -p no:cacheprovider -m slurm -x tests/slurm

test-extras: $(READY)     ## what only other packages can check: transformers, peft, pyarrow, h5py, scipy (in .oracles/)
	$(BIN)/python -m tests.extras

lint: $(READY)            ## format, lint, types, import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

results: $(READY)         ## regenerate results/ (hours on two cores; computes what the store lacks)
	$(BIN)/lfpm-bench demo seed=0,1,2 --out results/demo --adopt results/demo/records
	for name in heldout_defenses table_lfpm_authors table_lfpm_full_length table_merges_attacks table_merges_variants table_merges_lora table_peft_strength \
			adaptive_triggers adaptive_stress adaptive_several adaptive_seeds_triggers adaptive_seeds_stress transfer_scales; do \
		$(BIN)/lfpm-bench run -m experiment=$$name || exit 1; \
	done
	for name in table_lfpm heldout_lfpm phenomena table_merges table_peft ablation_lfpm ablation_fresh adaptive adaptive_seeds transfer precision; do \
		$(BIN)/lfpm-bench run -m experiment=$$name && \
		$(BIN)/lfpm-bench tables $$name -f md,csv,json --out results/$$name --adopt results/$$name/records || exit 1; \
	done
	$(BIN)/lfpm-bench tables table_lfpm_labels -f md,csv,json --out results/table_lfpm_labels --adopt results/table_lfpm_labels/records
	$(BIN)/python -m benchmark.readme

oracles: $(READY)         ## our mathematics beside mergekit, peft and fusion-bench, each in .oracles/ (3 GB, once)
	$(BIN)/python -m tests.oracles

bench: $(READY)           ## speed and memory beside fusion-bench and mergekit (at most 90 minutes, on an idle machine)
	$(BIN)/python -m tests.bench

# One step: exact versions with hashes, then this checkout itself. Skipped when nothing changed.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say make PYTHON=/path/to/it" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:                    ## remove the environment and caches (not the store of results)
	rm -rf $(VENV) .oracles build *.egg-info .pytest_cache .ruff_cache .hypothesis demo
