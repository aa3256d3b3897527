# make demo   the whole idea on two real SSH hosts of this machine, in a minute
# make test   everything that CI runs
# make system of that, the tests on whole machines: systemd in containers; as root only (apt-get installs the engine)
# make molecule  each role, alone, on a whole machine; ROLE=docker or ROLE=docker/adopt for some of it
# make lint   all static checks
# make bench  measure, in ratios to other tools
# make docs   the parts of README.md that are made from the code
# make clean  remove what these made
#
# Needs Python >= 3.11 with pip. What is installed goes to .venv, except OpenSSH, which the system's package manager
# installs where it is missing and may be (`python -m pool.lab.openssh`).

.PHONY: demo test system molecule lint bench docs clean check openssh
.DEFAULT_GOAL := demo

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Programs are found through PATH, as in an activated environment.
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"

demo: .venv/.stamp openssh
	@$(IN_VENV) examples/demo.sh

test: .venv/.stamp-dev check openssh
	@$(IN_VENV) pytest tests -n 2 --no-loadscope-reorder

system: .venv/.stamp-dev openssh
	@$(IN_VENV) pytest tests/system

molecule: .venv/.stamp-molecule openssh
	@$(IN_VENV) python tests/molecule/run.py $(ROLE)

check: .venv/.stamp-dev
	@$(IN_VENV) ruff check .
	@$(IN_VENV) ruff format --check .
	@$(IN_VENV) mypy

lint: check
	@$(IN_VENV) ansible-lint playbooks roles

bench: .venv/.stamp-dev openssh
	@$(IN_VENV) python -m benchmarks

docs: .venv/.stamp-dev openssh
	@$(IN_VENV) python .ci/readme.py --demo

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

openssh: .venv/.stamp
	@$(BIN)/python -m pool.lab.openssh >/dev/null

# The package and what it needs; .stamp-dev adds what only tests and checks need.
.venv/.stamp: pyproject.toml .ci/venv
	@.ci/venv .venv
	@echo "installing pool into .venv"
	@$(PIP) install -e .
	@touch $@

.venv/.stamp-dev: .venv/.stamp
	@echo "installing what tests and checks need into .venv"
	@$(PIP) install --group test --group lint
	@touch $@

.venv/.stamp-molecule: .venv/.stamp
	@echo "installing molecule into .venv"
	@$(PIP) install --group molecule
	@touch $@
