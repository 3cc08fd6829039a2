# The front door. What a target needs is installed by tools/setup, which says so first.
.PHONY: help run test vm-test lint bpf wheel docs reference bench bench-report bench-instructions profile clean \
	ready-bpf ready-run ready-test ready-vm ready-bench
.DEFAULT_GOAL := help
PYTHON ?= python3
export PYTHON

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do \
		printf 'make %-18s %s\n' "$$target" "$$what"; done

run: ready-run ## install what is missing, then watch this machine; ARGS='--for 10 --json' and the like are handed on
	@.venv/bin/ebpfmon run $(ARGS)

test: lint ## install what is missing, then lint and test; ARGS='tests/unit -k word' goes to pytest
	@.venv/bin/pytest $(ARGS)

vm-test: ready-vm ## the kernel tests under Debian's kernels, in QEMU; ARGS='--kernel 6.1 --configuration core' runs some of them
	@.venv/bin/python -m tests.vm matrix $(ARGS)

lint: ready-test ## ruff and mypy
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/mypy --no-error-summary

bpf: ready-bpf ## compile the BPF programs that changed, for x86-64 and aarch64

wheel: ready-run ## build the wheel into dist/
	@rm -f dist/*.whl
	@.venv/bin/pip -qq wheel --no-deps --wheel-dir dist .
	@ls dist/*.whl

docs: ready-test ## build the documentation site into build/site
	@.venv/bin/python tools/docs

reference: ready-test ## write the generated tables in docs/reference
	@.venv/bin/python tools/reference

bench: ready-bench ## measure what ebpfmon costs here, in twenty minutes; ARGS='ladder --quick' runs one benchmark, in a hurry
	@.venv/bin/python -m benchmarks $(ARGS)

bench-instructions: ready-vm ready-bench ## count the instructions of a counted call under Debian's kernels, in QEMU
	@.venv/bin/python -m benchmarks instructions $(ARGS)

bench-report: ready-bench ## write benchmarks/REPORT.md and its plots from what was measured
	@.venv/bin/python -m benchmarks report

profile: ready-bench ## where a daemon's CPU time goes, as a flame graph; ARGS='--pid N' looks at one that runs
	@.venv/bin/python -m benchmarks.profiler $(ARGS)

clean: ## remove all that was built here, .venv too; Debian packages stay
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis plugins/*/objects ebpfmon/grouping/objects
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

ready-bpf ready-run ready-test ready-vm ready-bench: ready-%:
	@tools/setup $*
