# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
# make demo   the fleet in the simulated arena, results in demo_output/      make demo ROBOTS=16 DURATION_S=60
# make demo WEB=1   the same for ten minutes, with a page of the fleet in the browser; Ctrl-C ends it
# make demo POLICY=act   with an ACT of LeRobot instead, which gives the actions of a second at once
# make test   linters, types and the tests: with ROS 2 Kilted, and those that depend on ROS once more with Jazzy
# make test-all   this, then the slow tests, many more examples of the property-based ones, and all others with Jazzy
# make lint, make test-kilted, make test-jazzy, make test-slow   one of them       make test-kilted PYTEST_FLAGS="-k pipeline"
# make docs   the documentation, in doc/_build         make pages   measures the generated pages of the documentation
# make bench  all figures of doc/performance.md and the README, half an hour on a machine that is otherwise idle
# make smoke  counts calls, allocations and copies of a tick (22 s of CPU time), and says what is worse than in
#             doc/performance/smoke.json; make smoke-figures writes that file
# make mutants   changes the code in small ways that tests must notice, hours      make mutants MODULE=control.guard
# make mutants SAMPLE=20 SEED=0   the same for 20 random changes of each module
# All make .venv from the wheels in constraints.txt, or .venv-jazzy from those in constraints-jazzy.txt; no ROS
# installation is needed or used.

PYTHON ?= python3
ROBOTS ?= 4
WEB ?=
POLICY ?=
DURATION_S ?= $(if $(WEB),600,30)
# For `make mutants`: a subpackage or module below policy_node that pyproject.toml lists.
MODULE ?=
SAMPLE ?=
SEED ?= 0
PYTEST_FLAGS ?=
# Two processes more than cores, as tests over DDS wait for each other; each takes a gigabyte.
WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 7 ? cores + 2 : 8)))

VENV := .venv
JAZZY_VENV := .venv-jazzy
PYTEST = pytest --numprocesses $(WORKERS) --dist worksteal --rerun-show-tracebacks
PIP_INSTALL := pip install --quiet --progress-bar off --disable-pip-version-check

# Robots of the demonstration and of the tests stay on this machine; both choose a ROS domain that is free.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
# A sourced ROS installation would mix its libraries with those of the wheels.
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH RMW_IMPLEMENTATION

.PHONY: demo test test-all test-kilted test-jazzy test-slow bench smoke smoke-figures lint docs pages mutants clean
# The tests of two environments would take the machine from each other.
.NOTPARALLEL:

demo: $(VENV)/demo.stamp
	$(VENV)/bin/policy_demo --robots $(ROBOTS) --duration-s $(DURATION_S) $(if $(WEB),--web) \
	  $(if $(POLICY),--params config/rover_$(POLICY).yaml)

# All run, also after failures. The linters need one core for a minute in a new clone; their findings come last.
test: $(VENV)/test.stamp
	@found=$$(mktemp); $(MAKE) --no-print-directory lint >$$found 2>&1 & lint=$$!; \
	$(MAKE) --no-print-directory --keep-going test-kilted test-jazzy; tests=$$?; \
	wait $$lint; linted=$$?; cat $$found; rm -f $$found; exit $$((tests + linted))

test-all:
	@$(MAKE) --no-print-directory --keep-going test test-slow

test-kilted: $(VENV)/test.stamp
	$(VENV)/bin/$(PYTEST) -m "not slow" $(PYTEST_FLAGS)

test-jazzy: $(JAZZY_VENV)/test.stamp
	$(JAZZY_VENV)/bin/$(PYTEST) -m "both_distributions and not slow" $(PYTEST_FLAGS)

# What `make test` leaves out. The plugin of Hypothesis marks its tests.
test-slow: $(VENV)/test.stamp $(VENV)/browser.stamp $(JAZZY_VENV)/test.stamp
	HYPOTHESIS_PROFILE=large $(VENV)/bin/$(PYTEST) -m "slow or hypothesis" $(PYTEST_FLAGS); kilted=$$?; \
	$(JAZZY_VENV)/bin/$(PYTEST) -m "slow or not both_distributions" $(PYTEST_FLAGS) && exit $$kilted

bench: $(VENV)/test.stamp
	doc/performance/measure.sh

# Counts do not depend on the load of the machine, but on the version of Python and on those in constraints.txt.
smoke: $(VENV)/test.stamp
	$(VENV)/bin/policy_bench smoke --against doc/performance/smoke.json

smoke-figures: $(VENV)/test.stamp
	$(VENV)/bin/policy_bench smoke --json doc/performance/smoke.json

lint: $(VENV)/test.stamp
	$(VENV)/bin/ruff check; checked=$$?; $(VENV)/bin/lint-imports || checked=1; $(VENV)/bin/mypy && exit $$checked

# Warnings are errors; links and their anchors are checked.
docs: $(VENV)/docs.stamp
	rm -rf doc/api
	$(VENV)/bin/sphinx-build --builder html --fail-on-warning --keep-going --quiet doc doc/_build

# Measures and writes doc/parity.md and doc/export.md, and takes the picture doc/monitor.png. A test run never writes them.
pages: $(VENV)/test.stamp $(VENV)/browser.stamp
	$(VENV)/bin/pytest -q --write-pages test/policies/test_parity.py test/cli/test_export.py
	$(VENV)/bin/pytest -q --write-pages -k picture test/cli/test_web_page.py

# Continues where the last run ended; `rm -r mutants` starts again. Prints the mutants that no test noticed.
mutants: $(VENV)/mutants.stamp
	$(if $(SAMPLE),names=$$($(VENV)/bin/python test/sample_mutants.py $(SAMPLE) $(SEED) "$(MODULE)"); [ -z "$$names" ] ||) \
	  nice -n 19 $(VENV)/bin/mutmut run $(if $(SAMPLE),$$names,$(if $(MODULE),"policy_node.$(MODULE)*"))
	$(VENV)/bin/mutmut results | grep "$(MODULE)" || true

$(VENV)/demo.stamp: setup.py constraints.txt constraints-common.txt
	@echo "installing into $(VENV), about one minute"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/$(PIP_INSTALL) --constraint constraints.txt --editable ".[ros,rover,bags,web]"
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp test/gazebo_tools.sh
	@echo "installing the tools of the tests into $(VENV)"
	@$(VENV)/bin/$(PIP_INSTALL) --constraint constraints.txt --editable ".[ros,bench,test]"
	@test/gazebo_tools.sh $(VENV)/gazebo
	@touch $@

$(VENV)/browser.stamp: $(VENV)/test.stamp test/browser_tools.sh
	@echo "getting a browser for the tests of the page into $(VENV)"
	@test/browser_tools.sh $(VENV)/browser
	@touch $@

$(VENV)/docs.stamp: $(VENV)/test.stamp
	@$(VENV)/bin/$(PIP_INSTALL) --constraint constraints.txt --editable ".[docs]"
	@touch $@

$(VENV)/mutants.stamp: $(VENV)/test.stamp
	@$(VENV)/bin/$(PIP_INSTALL) --constraint constraints.txt --editable ".[mutants]"
	@touch $@

# A second environment with everything in it: one that borrowed from the first could import its ROS packages.
$(JAZZY_VENV)/test.stamp: setup.py constraints-jazzy.txt constraints-common.txt
	@echo "installing ROS 2 Jazzy and the tools of the tests into $(JAZZY_VENV), about two minutes"
	@$(PYTHON) -m venv $(JAZZY_VENV)
	@$(JAZZY_VENV)/bin/$(PIP_INSTALL) --constraint constraints-jazzy.txt --editable ".[ros,bench,test]"
	@touch $@

clean:
	rm -rf $(VENV) $(JAZZY_VENV) build install log demo_output policy_node.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis mutants
	find . -name __pycache__ -prune -exec rm -rf {} +
