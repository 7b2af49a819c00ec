# All commands; `make` lists them. Paths are relative because the name of the checkout's folder may contain spaces.
.DEFAULT_GOAL := help
.PHONY: help venv demo tiny-model serve test proofs clients lmms-eval k8s-check image-proof lint format bench schemas schema-suite clean
PYTHON_OF_VENV := .venv/bin/python
ARGS ?=
FILE ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

venv: .venv/ready ## create .venv with the pinned versions

.venv/ready: pyproject.toml constraints.txt .ci/bootstrap
	@PYTHON="$(PYTHON)" sh .ci/bootstrap

demo: .venv/ready ## train the tiny model's curriculum, evaluate it and plot the results; ARGS=from=scratch trains towers too
	@$(PYTHON_OF_VENV) -m train.demo $(ARGS)

tiny-model: .venv/ready ## train the shipped model again, in two to three hours; ARGS="out=FOLDER"
	@$(PYTHON_OF_VENV) -m train.tiny_model $(ARGS)

serve: .venv/ready ## serve a model and the playground on this machine; ARGS="model=FOLDER port=8080"
	@$(PYTHON_OF_VENV) -m serve.run $(ARGS)

# Hundreds of processes import the same modules: they share byte code even where the user's shell turns that off.
test: export PYTHONDONTWRITEBYTECODE :=
test: .venv/ready ## run the tests; ARGS="-k noise" selects some
	$(PYTHON_OF_VENV) -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

proofs: .venv/ready ## run the long tests (disconnects, soak, faults, nodes, scaling, fuzzing), about half an hour
	$(PYTHON_OF_VENV) -m pytest --full -m proof -s --timeout 3600 $(ARGS)

clients: .venv/ready ## check the server with other projects' clients, each in its own environment; ARGS="langchain"
	@$(PYTHON_OF_VENV) -m tests.clients $(ARGS)

lmms-eval: .venv/ready ## compare answers with LMMs-Eval, in its own environment; ARGS="--model FOLDER"
	@sh .ci/lmms_eval
	@$(PYTHON_OF_VENV) -m tests.bench.compare_lmms_eval $(ARGS)

k8s-check: .venv/ready ## check the Kubernetes manifests without a cluster
	@$(PYTHON_OF_VENV) -m k8s.check

image-proof: .venv/ready ## build the image of the pods and check it; ARGS="--build-arg BASE=IMAGE" sets another base image
	@sh .ci/image_proof $(ARGS)

lint: .venv/ready ## check style, types and import rules
	$(PYTHON_OF_VENV) -m ruff check .
	$(PYTHON_OF_VENV) -m ruff format --check .
	$(PYTHON_OF_VENV) -m pyright
	PYTHONPATH=.:platform .venv/bin/lint-imports --no-cache

format: .venv/ready ## fix style and format the code
	$(PYTHON_OF_VENV) -m ruff check --fix .
	$(PYTHON_OF_VENV) -m ruff format .

bench: .venv/ready ## measure speed and memory against the reference implementations
	@set -e; for each in tests/bench/bench_*.py; do \
		echo "== $$each"; $(PYTHON_OF_VENV) "$$each" $(ARGS); \
	done

schemas: .venv/ready ## check structured output on schemas; FILE=schemas.jsonl.gz ARGS="--answers 40"
	@$(PYTHON_OF_VENV) tests/bench/bench_schemas.py $(FILE) $(ARGS)

schema-suite: .cache/schema_suite ## check structured output on the official JSON Schema Test Suite
	@$(PYTHON_OF_VENV) tests/bench/bench_schema_suite.py $(ARGS)

.cache/schema_suite: .venv/ready
	@rm -rf .cache/jsonschema && mkdir -p .cache/jsonschema $@
	@$(PYTHON_OF_VENV) -m pip download --quiet --no-deps --no-binary :all: --dest .cache/jsonschema jsonschema==4.25.1
	@tar -xzf .cache/jsonschema/jsonschema-*.tar.gz -C $@ --strip-components 3 --wildcards '*/json/tests/*'

clean: ## remove .venv, caches and prepared data; keep runs/
	rm -rf .venv .venv-lmms-eval .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
