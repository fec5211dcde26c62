# What a newcomer needs: `make demo` and `make test`. Both install what they need first (`make setup`).
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo demo-keep cluster cluster-keep cnis matrix compose-up compose-down test lint lock sim bench scale chaos chaos-planted format clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup:  ## install Debian packages (as root) and the virtual environment
	@bash .ci/setup

setup-test: setup  ## the same with what tests, lint and plots need: Java, etcd, pytest, ruff, mypy, matplotlib
	@EXTRAS=test,lint,plot bash .ci/setup

demo: setup  ## show the main job on real traffic: three nodes, a failover, the audit log (root, under 90 s)
	@.venv/bin/egressgw lab demo

demo-keep: setup  ## the same, and leave the lab up with the commands to try
	@.venv/bin/egressgw lab demo --keep

cluster: setup-test  ## the same in a real Kubernetes cluster with kubelets and containers (root; builds Kubernetes once)
	@service/lab/cluster/build_assets.sh >/dev/null
	@.venv/bin/egressgw lab --kubernetes

cluster-keep: setup-test  ## the same, and leave the cluster up: kubectl, lab exec, lab fault
	@service/lab/cluster/build_assets.sh >/dev/null
	@.venv/bin/egressgw lab --kubernetes --keep

cnis:  ## build flannel and kube-router for `egressgw lab --kubernetes --cni NAME` (once: minutes)
	@service/lab/cluster/build_cni.sh

matrix: setup-test cnis  ## run every CNI and mode of kube-proxy in a real cluster, and write docs/compatibility.md (root; an hour)
	@service/lab/cluster/build_assets.sh >/dev/null
	-@EGRESSGW_MATRIX=1 $(PYTHON) -m pytest -q tests/cluster/test_cni.py tests/cluster/test_segments.py --junitxml .matrix.xml
	@$(PYTHON) -m loadtest.compatibility .matrix.xml docs/compatibility.md

compose-up: setup-test  ## a small real cluster in containers: API server, Kafka, three nodes with a pod each (docker)
	@deploy/build-image --dev >/dev/null
	@service/lab/cluster/build_assets.sh >/dev/null
	@$(PYTHON) -m loadtest.broker >/dev/null
	@docker-compose up -d
	@echo "try: docker-compose exec pod1 curl -s 203.0.113.8:8080; docker-compose logs outside; make compose-down"

compose-down:  ## remove it, its data too
	@docker-compose down -v

test: setup-test  ## lint, type check and every test, the end-to-end ones included (root)
	@bash .ci/test

lint: setup-test  ## ruff, mypy strict, import contracts, what nothing calls, house rules and the law of docs/
	@bash .ci/lint

lock: setup-test  ## write requirements/*.lock anew: versions and hashes of all that is installed (UPGRADE=1: the newest)
	@.ci/lock

sim: setup-test  ## the deterministic simulations alone, with more seeds (SEEDS=N)
	EGRESSGW_LEASE_SEEDS=$${SEEDS:-1000} EGRESSGW_BLOCK_SEEDS=$${SEEDS:-1000} $(PYTHON) -m pytest tests/simulation -q --timeout 1800

bench: setup  ## measure: failover gap, and the datapath beside plain routing and nft maps
	$(PYTHON) -m loadtest failover --kills 10
	$(PYTHON) -m loadtest datapath

scale: setup-test  ## measure what everything costs by how much there is, and write docs/scaling.md with its plots (root; MINUTES=N of churn)
	-@$(PYTHON) -m loadtest scale --json .scale.json --plots docs/scaling --churn-minutes $${MINUTES:-1}
	@$(PYTHON) -m loadtest.scale.document .scale.json docs/scaling.md

chaos: setup  ## let happen to a lab under traffic what happens in the field (root; MINUTES=N SEED=N EVENTS=a,b KUBERNETES=1)
	$(PYTHON) -m loadtest chaos --minutes $${MINUTES:-4} $${SEED:+--seed $$SEED} --events "$${EVENTS:-}" $${KUBERNETES:+--kubernetes}

chaos-planted: setup  ## is chaos sharp enough? lines taken out of a copy of the product must be found (root; 10 min)
	$(PYTHON) -m loadtest planted

format: setup-test  ## let ruff put the code into shape
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

clean:  ## remove the lab, the virtual environment and caches
	-@[ -x .venv/bin/egressgw ] && .venv/bin/egressgw lab down
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
