# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
# make demo   the fleet in the simulated arena, results in demo_output/      make demo ROBOTS=16 DURATION_S=60
# make test   linters, types and the whole test suite                        make test PYTEST_FLAGS="-k pipeline"
# make bench  all figures of doc/performance.md and the README, a quarter of an hour on a machine that is otherwise idle
# All make .venv from the wheels in constraints.txt; no ROS installation is needed or used.

PYTHON ?= python3
ROBOTS ?= 4
DURATION_S ?= 30
PYTEST_FLAGS ?=

VENV := .venv
PIP_INSTALL := $(VENV)/bin/pip install --quiet --progress-bar off --disable-pip-version-check

# Robots of the demonstration and of the tests stay on this machine; both choose a ROS domain that is free.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
# A sourced ROS installation would mix its libraries with those of the wheels.
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH RMW_IMPLEMENTATION

.PHONY: demo test bench lint clean

demo: $(VENV)/demo.stamp
	$(VENV)/bin/policy_demo --robots $(ROBOTS) --duration-s $(DURATION_S)

# All three run whatever the others find; pytest comes last, so that its summary is what one sees.
test: $(VENV)/test.stamp
	@failed=; \
	$(VENV)/bin/ruff check || failed="$$failed ruff"; \
	$(VENV)/bin/mypy || failed="$$failed mypy"; \
	$(VENV)/bin/pytest $(PYTEST_FLAGS) || failed="$$failed pytest"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

bench: $(VENV)/test.stamp
	doc/performance/measure.sh

lint: $(VENV)/test.stamp
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

$(VENV)/demo.stamp: setup.py constraints.txt
	@echo "installing into $(VENV), about one minute"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --constraint constraints.txt --editable ".[ros,sim]"
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	@echo "installing the tools of the tests into $(VENV)"
	@$(PIP_INSTALL) --constraint constraints.txt --editable ".[ros,sim,test]"
	@touch $@

clean:
	rm -rf $(VENV) build install log demo_output policy_node.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
