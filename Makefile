# Run `make help` for a list of targets. tools/setup installs what a target needs, and says so first.
.PHONY: help run test test-lowest test-debian test-more vm-test lint bpf wheel docs reference bench bench-report \
	bench-instructions profile clean ready-bpf ready-run ready-test ready-vm ready-bench
.DEFAULT_GOAL := help
PYTHON ?= python3
export PYTHON ARGS

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do \
		printf 'make %-18s %s\n' "$$target" "$$what"; done

run: ready-run ## install what is missing and run ebpfmon in the terminal; ARGS='--for 10 --json' adds options
	@.venv/bin/ebpfmon run $(ARGS)

test: lint ## run lint and all tests; ARGS='tests/unit -k word' passes arguments to pytest
	@tools/test $(ARGS)

test-lowest: ready-test ## run tests with the lowest versions of all Python packages; ARGS='tests/unit' runs a part
	@.venv/bin/python tools/lowest $(or $(ARGS),tests/unit tests/sinks)

test-debian: ## run lint and all tests in a bare Debian 13 under this kernel; ARGS='tests/unit' runs a part
	@tools/debian trixie make test "ARGS=$$ARGS"

vm-test: ready-vm ## run the kernel tests under Debian's kernels in QEMU, about 25 minutes; ARGS='--kernel 6.1' runs a part
	@.venv/bin/python -m tests.vm matrix $(ARGS)

test-more: ready-test ## test all on Debian 13, then compare random work with its counts for an hour; ARGS='--minutes 5'
	@$(MAKE) --no-print-directory test-debian ARGS=
	@.venv/bin/python -m tests.kernel.random_watch $(ARGS)

lint: ready-test ## check the code with ruff and mypy
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/mypy --no-error-summary

bpf: ready-bpf ## compile changed BPF programs for x86-64 and aarch64

wheel: ready-run ## build the wheel in dist/
	@rm -f dist/*.whl
	@.venv/bin/pip -qq wheel --no-deps --wheel-dir dist .
	@ls dist/*.whl

docs: ready-test ## build the documentation site into build/site
	@.venv/bin/python tools/docs

reference: ready-test ## update the generated tables in docs/reference
	@.venv/bin/python tools/reference

bench: ready-bench ## run the benchmarks, about 17 minutes; ARGS='ladder --quick' runs one of them with fewer rounds
	@.venv/bin/python -m benchmarks $(ARGS)

bench-instructions: ready-vm ready-bench ## count the instructions per call under Debian's kernels in QEMU, about 4 minutes
	@.venv/bin/python -m benchmarks instructions $(ARGS)

bench-report: ready-bench ## write benchmarks/REPORT.md and its plots from the stored results
	@.venv/bin/python -m benchmarks report

profile: ready-bench ## draw a flame graph of a daemon's CPU time; ARGS='--pid N' profiles a running daemon
	@.venv/bin/python -m benchmarks.profiler $(ARGS)

clean: ## delete everything built here, including .venv; Debian packages stay installed
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis plugins/*/objects ebpfmon/grouping/objects
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

ready-bpf ready-run ready-test ready-vm ready-bench: ready-%:
	@tools/setup $*
