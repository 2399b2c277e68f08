# What a person types, and CI types the same. `make` alone sets up; every other target sets up first.
#
#   make test        every test not marked slow, then each benchmark once, untimed
#   make test-all    the above, lint, the slow tests, and 200 examples for every Hypothesis property
#   make bench       the benchmarks, timed and compared with this machine's baseline; the exit code is the verdict
#   make lint        ruff, pyrefly and the layers
#   make clean       forget the environment and the caches; baselines and runs stay
#
# ARGS goes to pytest: make test ARGS="-k room" (the tests alone), make bench ARGS=--full.
# PYTHON is the interpreter that .venv is made from. Without network: make PYTHON=python3 WHEELS=folder test
# lets .venv see the packages that PYTHON has (torch among them) and takes the rest from the folder's wheels.

PYTHON ?= python3
WHEELS ?=
ARGS ?=

GPU := $(shell nvidia-smi -L 2>/dev/null | grep '^GPU')
# Without a GPU the pinned release: a plain `torch` may be newer and bring gigabytes of CUDA packages.
TORCH ?= $(if $(GPU),torch,torch==2.13.0)
# Whose Triton is none: the interpreter of this one runs our kernels in test-all.
TRITON := $(if $(filter torch==2.13.0,$(TORCH)),"triton==3.6.0; sys_platform == 'linux'")
PACKAGE := .$(if $(GPU),[cuda])
# Named by content, not dated: a fresh copy of the same tree sets nothing up again.
READY := .venv/ready-$(shell cat pyproject.toml Makefile | cksum | cut -d ' ' -f 1)

PIP = .venv/bin/python -m pip
PYTEST = .venv/bin/python -m pytest
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(WHEELS),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELS))
endif

.PHONY: setup test test-all bench lint clean
.NOTPARALLEL:

setup: $(READY)

# Two threads on two shared cores wait for each other; one is steadier, and a GPU does not notice.
test test-all bench: export OMP_NUM_THREADS ?= 1

test: $(READY)
	$(PYTEST) tests -m "not slow" $(ARGS)
ifeq ($(ARGS),)
	$(PYTEST) benchmarks
endif

test-all: lint test
	HYPOTHESIS_PROFILE=ci $(PYTEST) tests -m "slow or hypothesis" $(ARGS)

bench: $(READY)
	$(PYTEST) benchmarks --benchmark-compare $(ARGS)

lint: $(READY)
ifeq ($(WHEELS),)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyrefly check
	.venv/bin/lint-imports
else
	@echo "lint: left out (WHEELS brings what the tests need, not the linters)"
endif

clean:
	rm -rf .venv .hypothesis .pytest_cache .ruff_cache .import_linter_cache build dist
	find rap benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "setting up .venv ($(if $(GPU),NVIDIA GPU,no NVIDIA GPU)$(if $(WHEELS),; packages of $(PYTHON) and wheels of $(WHEELS)))"
ifeq ($(WHEELS),)
	@$(PYTHON) -m venv .venv
	@$(PIP) install -qq --upgrade "pip>=25.1"
	@$(PIP) install -qq "$(TORCH)" $(TRITON)
	@$(PIP) install -qq -e "$(PACKAGE)" --group dev
else
	@$(PYTHON) -m venv --without-pip .venv
	@$(PYTHON) -c 'import site; print(*site.getsitepackages(), sep="\n")' > \
		"$$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/existing.pth"
	@$(PIP) install -qq "pip>=25.1"
	@$(PIP) install -qq -e "$(PACKAGE)" --group test
endif
	@$(if $(and $(GPU),$(shell command -v nvcc)),$(FUSED_SSIM),false) \
		|| echo "fused-ssim: not installed (it needs an NVIDIA GPU, nvcc and its repository); SSIM runs in plain PyTorch, equal values"
	@rm -f .venv/ready-*
	@touch $@

# Not isolated: it must be compiled against the torch that is installed, for the GPU that is present.
FUSED_SSIM = $(PIP) install -qq --no-build-isolation $(if $(WHEELS),fused-ssim,--group fused-ssim) \
	</dev/null >.venv/fused-ssim.log 2>&1
