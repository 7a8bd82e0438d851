# The commands of daily work. `make demo` and `make test` need nothing but Python 3.11 or 3.12, git and make.
SHELL := /bin/bash
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do $$name -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,13))' 2>/dev/null && echo $$name && break; done)
RUN := .venv/bin/python
DEMO_OPTIONS = $(if $(DATASET),--dataset "$(DATASET)") $(if $(PICTURE),--picture "$(PICTURE)")
REQUIREMENTS := requirements.txt requirements-forecast.txt spark_jobs/requirements.txt serving/requirements.txt local/requirements.txt local/requirements.lock

# The real thing in place of a stand-in, only when named on make's own command line: a KUBECONFIG that merely
# stands in the environment must never receive a demo.
REAL := KUBECONFIG MLFLOW_TRACKING_URI PROMETHEUS_URL DATA_LAKE YC_SERVICE_ACCOUNT_KEY INGRESS SERVICE_HOST SETTINGS
$(foreach name,$(REAL),$(if $(filter command,$(firstword $(origin $(name)))),$(eval export ML_LIFECYCLE_REAL_$(name) := $($(name)))))

.PHONY: help demo demo-bad-canary up down status dataset test test-unit test-contract lint format bundle environment lock docs clean bench-loader bench-train bench-canary bench-rollouts bench-scaling bench-scaling-tick

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.venv/installed: $(REQUIREMENTS) local/set_up.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: install it, or say where it is by make PYTHON=/path/to/python3.11"; exit 1; }
	@$(if $(TORCH_INDEX),TORCH_INDEX="$(TORCH_INDEX)") $(PYTHON) local/set_up.py

demo: .venv/installed ## run the whole life of a model and print what happened; DATASET=folder for your own images
	@$(RUN) -m local.demo $(DEMO_OPTIONS)

demo-bad-canary: .venv/installed ## show bad versions being caught and rolled back; PICTURE=file.svg for the evidence
	@$(RUN) -m local.demo --bad-canary $(DEMO_OPTIONS)

up: .venv/installed ## start the stand-ins and Airflow for trying everything by hand
	@$(RUN) -m local.stack up $(if $(DATASET),--dataset "$(DATASET)")

down: .venv/installed ## stop what up started
	@$(RUN) -m local.stack down

status: .venv/installed ## say what runs where
	@$(RUN) -m local.stack status

test: .venv/installed ## pass every test
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-unit: .venv/installed ## the fast, pure tests
	@$(RUN) -m pytest -n 2 tests/unit -m "not slow"

test-contract: .venv/installed ## the API contract, against a real API server: KUBECONFIG=… or KUBEBUILDER_ASSETS=…
	@$(if $(ML_LIFECYCLE_REAL_KUBECONFIG),ML_LIFECYCLE_CONTRACT_KUBECONFIG="$(KUBECONFIG)") $(if $(KUBEBUILDER_ASSETS),KUBEBUILDER_ASSETS="$(KUBEBUILDER_ASSETS)") $(RUN) -m pytest tests/contract

bench-loader: .venv/installed ## images a second of ingest and loader, beside the ImageFolder way
	@$(RUN) -m tests.benchmarks.loader $(ARGS)

bench-train: .venv/installed ## images a second of the training, beside a plain torch loop
	@$(RUN) -m tests.benchmarks.train $(ARGS)

bench-canary: .venv/installed ## how often the canary's verdict is wrong, and how long it takes, beside its peers
	@$(RUN) -m tests.benchmarks.canary $(ARGS)

bench-rollouts: .venv/installed ## 200 rollouts at once in one triggerer: CPU, memory, lag, requests to the API
	@$(RUN) -m tests.benchmarks.rollouts $(ARGS)

bench-scaling: .venv/installed ## the scaler on replayed load, beside its rivals; TRACES=folder of CSV files
	@$(RUN) -m tests.benchmarks.scaling $(if $(TRACES),--traces "$(TRACES)") $(ARGS)

bench-scaling-tick: .venv/installed ## seconds and memory of one decision for up to 10,000 scalers
	@$(RUN) -m tests.benchmarks.scaling_tick $(ARGS)

lint: .venv/installed ## formatting, lint, types, layers
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
	@PYTHONPATH=plugins:. .venv/bin/lint-imports

format: .venv/installed ## format and mend what can be mended
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

bundle: .venv/installed ## write dist/: the dags/ folder for a managed Airflow, a zip and a wheel
	@$(RUN) -m local.bundle

environment: .venv/installed ## write dist/environment-<digest>.tar.gz, the cluster's Python; PYTHON_PREFIX=/where/it/is on its hosts
	@$(RUN) -m local.cluster_environment $(if $(PYTHON_PREFIX),--python-prefix "$(PYTHON_PREFIX)")

docs: .venv/installed ## generate docs/settings.md from the code
	@$(RUN) -m local.settings_reference

lock: .venv/installed ## resolve the requirement files again
	@local/lock.sh

clean: down ## stop everything and remove what it left
	@rm -rf .local dist build
