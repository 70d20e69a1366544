# Every target works alone from a fresh clone: the first one makes the environment in .venv.
# PYTHON=python3.12 asks for one interpreter; otherwise the first of these that will do is taken.
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
WILL_DO := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
BIN := .venv/bin
DEMO := outputs/demo
# Python compiles the modules that are imported, a fraction of all, when they are.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
COMPILE := $(BIN)/uv pip compile --quiet --no-config --universal --constraints=constraints.txt \
	--generate-hashes --no-annotate --no-header

.PHONY: setup requirements demo docs test fast-tests test-slow test-gcs test-faults fuzz bench lint style types clean

setup: .venv/installed

# Nothing is taken that has not the SHA-256 of requirements*.txt. What comes without a wheel is built
# with the setuptools of the first of them, and so is this package, which cannot have a hash.
.venv/installed: setup.py requirements-build.txt requirements.txt
	@for python in $(PYTHONS); do \
		if "$$python" -c '$(WILL_DO)' 2>/dev/null; then exec "$$python" -m venv .venv; fi; \
	done; \
	echo "Python 3.11 or newer with the modules venv and ensurepip is needed; found none as" \
		"$(PYTHONS); install one, or set PYTHON=/path/to/python3.12" >&2; exit 1
	$(INSTALL) --require-hashes -r requirements-build.txt
	$(INSTALL) --require-hashes --no-build-isolation -r requirements.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# All files anew, after a change of setup.py or constraints.txt: for all platforms and Pythons.
requirements: setup
	$(INSTALL) uv==0.13.9
	echo setuptools | $(COMPILE) --python-version=3.11 - -o requirements-build.txt
	$(COMPILE) --python-version=3.11 setup.py --extra=digits --extra=test -o requirements.txt
	printf '%s\n' mkdocs-material 'mkdocstrings[python]' | \
		$(COMPILE) --python-version=3.11.5 - -o requirements-docs.txt

demo: setup
	JAX_PLATFORMS=cpu $(BIN)/python scripts/demo.py --output=$(DEMO)

# What builds the site, beside what `make setup` installs; it wants Python 3.11.5.
.venv/docs: .venv/installed requirements-docs.txt
	$(INSTALL) --require-hashes -r requirements-docs.txt
	@touch $@

# The documents as a site, outputs/site/index.html, with every link checked; a warning is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lint: style types

style: setup
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: setup
	$(BIN)/python -m mypy

# Types, half a minute of one core, are checked while the first tests run.
test: style
	$(MAKE) --no-print-directory -j 2 types fast-tests

fast-tests: setup
	$(BIN)/python -m pytest -n 2 --dist=loadgroup -m "not slow"

# The other implementations that metrics are compared with; torch among them.
.venv/parity: .venv/installed
	$(INSTALL) -c constraints.txt -e '.[parity]'
	@touch $@

test-slow: .venv/parity
	$(BIN)/python -m pytest -m slow

# A stand-in for Google Cloud Storage, docs/reliability.md.
.venv/gcs: .venv/installed
	$(INSTALL) -c constraints.txt -e '.[gcs]' gcp-storage-emulator
	@touch $@

test-gcs: .venv/gcs
	$(BIN)/python -m pytest -n0 -m slow tests/test_object_store.py

# More than 10,000 inputs, docs/reliability.md; SEED=1 tries others.
fuzz: setup
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.fuzz --seed=$(or $(SEED),0)

# FAULTS="--seed=1 --faults=100" bounds it; python -m tests.faults --help.
test-faults: setup
	$(BIN)/python -m tests.faults $(FAULTS)

# Against the PyTorch release too where RELEASE is a checkout of it and torch is installed.
bench: setup
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.jobs
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.latent_pipeline $(if $(RELEASE),--release=$(RELEASE))
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.image_pipeline
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.sampling_cost skip --num-steps=30 --rounds=3 --output=outputs/benchmarks/skip.json
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.tokenizer_step time --size=64 --batch-size=2 \
		--dtype=float32 --rounds=3 --output=outputs/benchmarks/tokenizer_step.json
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.cpu_profile
	$(if $(RELEASE),JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.against_release --release=$(RELEASE))

clean:
	rm -rf .venv .cache outputs build *.egg-info
