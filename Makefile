# make train    the demonstration on Fashion-MNIST: data, irreducible losses, two runs, table, plot
# make data-debian-sections, data-gpt-debian, data-notmnist
#               data and irreducible losses of the works in examples/, from Debian's mirror
# make test     the tests, in two processes (PYTEST_ARGS="-n 0 -k queue": some of them, in one)
# make test-long       what takes long, a case a mechanism: faults, nodes, signals, the wheel alone
# make test-matrix     tasks, workers and several devices that train, in all combinations, with kills
# make test-benchmarks  smallest runs of the other benchmarks, and the check of a GPU
# make test-cluster    `ray up` on hosts of this machine's own making; as root, minutes
# make test-smoke      import, 20 steps, a served loop, a compiled forward: each Python, oldest torch
# make test-all        all of these
# make test-gpu        the tests of a CUDA device, where there is one (GPU=cpu: on the CPU)
# make gpu-bundle      dist/gpu: the check of a GPU for a machine without network (docs/results/gpu.md)
# make cluster-package what `ray up` copies to the machines of a cluster (docs/deploy.md)
# make check    lint, format, types, floors, bounds of size, generated code
# make docs     the reference of the Python interface, from the docstrings, in build/reference
# make protos   the code generated from protos/ anew
# make format  mend what the linter and the formatter can
# make clean    removes what the tools and the demonstration's runs left; distclean: everything made
#
# Each sets up what it needs first: a virtual environment in .venv, data in data/, a Redis server, a
# Prometheus and a Chromium for the tests. Nothing needs root; what cannot be had without it is named
# with its command.
#
# Settings, as in `make train WORKERS=4`:
PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=
GPU ?= cuda
# Which torch. The index that pip is set up with decides which build; TORCH_INDEX names another, such
# as PyTorch's own index of the small CPU-only builds for Linux (see "Get started" on pytorch.org).
TORCH ?= $(shell grep '^torch==' constraints.txt)
TORCH_INDEX ?=

RUNTIME := .venv/runtime
VENV := .venv/installed
WORKS := .venv/works
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RHOCTL := $(BIN)/rhoctl
SERVERS = REDIS_SERVER="$$(scripts/servers.sh)" PROMETHEUS="$$(scripts/servers.sh prometheus)" \
	CHROMIUM="$$(scripts/servers.sh chromium)"

# What a program uses: data, models, selection, the queue and snapshot contracts, wiring.
REFERENCE := rhoselect.config rhoselect.data rhoselect.models rhoselect.plan rhoselect.importers \
	rhoselect.selection rhoselect.queue rhoselect.snapshots rhoselect.types rhoselect.errors \
	rhoselect.metrics rhoselect.models.replica rhoselect.inputs rhoselect.scorer.loop rhoselect.trainer.learner \
	rhoselect.trainer.loop rhoselect.trainer.build rhoselect.trainer.fit

DATA := data/fashion-mnist
IL := data/fashion-mnist-il.parquet
DEMO := examples/fashion-mnist.toml
RUNS := runs/demo-uniform runs/demo-rho

.PHONY: train data-debian-sections data-gpt-debian data-notmnist test test-long test-matrix test-benchmarks test-cluster test-smoke test-all test-gpu gpu-bundle cluster-package check docs protos format clean distclean help
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

train: $(RUNS:=/summary.json)
	$(RHOCTL) report $(RUNS) --out runs/demo.png

# A file's tests stay in one process, as they share what is made once; the files keep their order.
test: $(VENV)
	$(SERVERS) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-long: $(VENV)
	$(SERVERS) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long $(PYTEST_ARGS)

test-matrix: $(VENV)
	$(SERVERS) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m matrix $(PYTEST_ARGS)

test-cluster: $(VENV)
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

test-benchmarks: $(VENV)
	$(SERVERS) $(BIN)/python -m pytest -n 2 -m slow $(PYTEST_ARGS)

test-smoke:
	scripts/smoke.sh

test-all: test test-long test-matrix test-benchmarks test-cluster test-smoke

test-gpu: $(VENV)
	RHOSELECT_GPU_TESTS=$(GPU) $(BIN)/python -m pytest tests/gpu $(PYTEST_ARGS)

gpu-bundle: $(VENV)
	$(BIN)/python scripts/gpu_bundle.py dist/gpu

# Everything that a machine needs but torch and the other packages; and the token of the clusters.
cluster-package: $(VENV)
	rm -rf dist/cluster
	$(PIP) wheel -q --no-deps -w dist/cluster .
	cp constraints.txt deploy/ray/environment.sh deploy/ray/queue-server.sh dist/cluster
	$(BIN)/ray get-auth-token --generate >/dev/null

check: $(VENV) protos
	git diff --exit-code --stat -- protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_sizes.py

docs: $(VENV)
	rm -rf build/reference
	$(BIN)/pdoc --docformat restructuredtext --output-directory build/reference $(REFERENCE)

# The generated code is checked in, so that using the package takes no compiler.
protos: $(VENV)
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos \
		--grpc_python_out=protos protos/rhoselect/protos/*.proto

format: $(VENV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The environment is brought up to date when what it is made from changes. torch goes first, so that
# it can come from another index and be another release than the one in constraints.txt.
$(RUNTIME): pyproject.toml constraints.txt
	@$(PIP) --version >/dev/null 2>&1 || scripts/venv.sh $(PYTHON) .venv
	$(PIP) install --no-compile $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	grep -v '^torch==' constraints.txt > .venv/constraints.txt
	$(PIP) freeze | grep '^torch==' >> .venv/constraints.txt
	$(PIP) install --no-compile -c .venv/constraints.txt -e '.[all]'
	touch $@

# The demonstration does without the packages of tests and tools, and imports a small part of the
# others. The tests start many processes, so all modules are compiled for them, on all cores.
$(VENV): $(RUNTIME)
	$(PIP) install --no-compile -c .venv/constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib > .venv/compiled.log 2>&1 || true
	touch $@

# The demonstration's products: each is made once; an interrupted run goes on where it was.
$(DATA)/manifest.json: | $(RUNTIME)
	$(RHOCTL) data import fashion-mnist auto $(DATA) \
		--label-noise 0.1 --noise-seed 0 --holdout 0.5

$(IL): | $(DATA)/manifest.json
	$(RHOCTL) il fit --data $(DATA) --model rhoselect.models:small_cnn --batch 64 --epochs 10 \
		--patience 2 --set trainer.schedule=constant --set trainer.lr=1e-3 \
		--set trainer.threads=2 --out $@

# The works in examples/: data and irreducible losses. What they need of Debian's mirror lies in data/.
SECTIONS := data/debian-sections
GPT := data/gpt-debian
NOTMNIST := data/notmnist

data-debian-sections: $(SECTIONS)-il.parquet
data-gpt-debian: $(GPT)/il.parquet
data-notmnist: $(NOTMNIST)-il.parquet

$(WORKS): $(RUNTIME)
	$(PIP) install --no-compile -c .venv/constraints.txt -e '.[works]'
	touch $@

$(SECTIONS)-origin.json: | $(WORKS)
	$(BIN)/python -m examples.debian_sections

$(SECTIONS)-il.parquet: | $(SECTIONS)-origin.json
	$(RHOCTL) il fit --data $(SECTIONS) --model examples.debian_sections:words --epochs 4 --batch 64 \
		--set trainer.lr=1e-2 --out $@

$(GPT)/origin.json: | $(WORKS)
	$(BIN)/python -m examples.gpt_debian

$(GPT)/il.parquet: | $(GPT)/origin.json
	$(RHOCTL) il fit --data examples.gpt_debian:Texts --set task.name=examples.gpt_debian:Bytes \
		--model examples.gpt_debian:gpt --set model.args.width=64 --tokens --epochs 2 --batch 32 \
		--set trainer.lr=4e-3 --out $@

$(NOTMNIST)-origin.json: | $(WORKS)
	$(BIN)/python -m examples.notmnist

$(NOTMNIST)-il.parquet: | $(NOTMNIST)-origin.json
	$(RHOCTL) il fit --data $(NOTMNIST) --model rhoselect.models:small_cnn --epochs 10 --batch 64 \
		--out $@

runs/demo-uniform/summary.json: | $(IL)
	$(RHOCTL) train $(DEMO) --set selection.function=uniform --workers 0 \
		--run-dir $(@D) $$(test -d $(@D) && echo --resume)

runs/demo-rho/summary.json: | $(IL)
	$(RHOCTL) train $(DEMO) --workers $(WORKERS) \
		--run-dir $(@D) $$(test -d $(@D) && echo --resume)

clean:
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf $(RUNS) runs/demo.png
	find core scorer trainer runtime cli tests deploy -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .cache $(DATA) $(IL)
