.DEFAULT_GOAL := help
.PHONY: help setup demo cluster cluster-down cni image test test-cni test-image test-kernels test-kubernetes lint format bench docs lock clean
BIN := .venv/bin

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

setup: ## install what is needed: system packages (as root), .venv from the lock file
	@scripts/setup

demo: setup ## two racks, real routers, real packets: see the product work
	@$(BIN)/python scripts/demo.py

cluster: setup ## a Kubernetes cluster here: three nodes with kubelet and containerd, Tortie installed (needs root)
	@scripts/kubernetes-assets kube-proxy kube-scheduler kubelet >/dev/null
	@scripts/cni build
	@$(BIN)/python scripts/cluster.py up $(PROXY)

cluster-down: ## end it; nothing of it is left
	@$(BIN)/python scripts/cluster.py down

cni: ## build the CNI plugins into cni/bin: tortie-cni and those it is run with, static (needs Go)
	@scripts/cni build

image: ## build the container image localhost/tortie:VERSION (needs podman or docker)
	@scripts/image

test: setup ## every test this machine can run by itself: no API server, containerd, podman or other kernel
	@scripts/cni test
	@$(BIN)/python -m pytest -m 'not kubernetes and not containerd and not image and not other_kernel' --numprocesses 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=term

test-kernels: setup ## what this machine's kernel lacks, in a User Mode Linux kernel: three minutes (needs root, umlrun)
	@$(BIN)/python -m pytest -m other_kernel --numprocesses 2

test-cni: setup ## pods by the hundred through a real containerd: two minutes
	@scripts/cni build || true # without it the tests are skipped, and say so
	@$(BIN)/python -m pytest -m containerd tests/containerd

test-image: setup ## the image, built twice without a registry and run as the chart does (needs root, podman, debootstrap, Go)
	@scripts/kubernetes-assets >/dev/null
	@scripts/image --without-registry
	@$(BIN)/python -m pytest -m image tests/image

test-kubernetes: setup ## tests against a real API server, which is built the first time (some ten minutes)
	@scripts/kubernetes-assets kube-proxy kube-scheduler kubelet >/dev/null
	@scripts/cni build || true # without it some tests are skipped, and say so
	@$(BIN)/python -m pytest -m 'kubernetes and not image' --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: setup ## formatting, rules, types, import contracts, generated pages, links
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python scripts/docs.py --check
	@$(BIN)/python scripts/links.py
	@scripts/cni lint

format: setup ## put the code into the house format
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

bench: setup ## speed and memory beside BIRD and GoBGP, as a table and bench/results/*.json
	@$(BIN)/python -m bench

docs: setup ## write the generated reference pages again
	@$(BIN)/python scripts/docs.py

lock: setup ## resolve the dependencies again and write the lock files
	@scripts/lock

clean: ## remove what setup and the tests made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage bench/results cni/bin
