# `make demo` and `make test` do all the set-up themselves, on a fresh Debian or Ubuntu machine, as root.
.PHONY: cli demo test soak setup clean

demo:
	@tests/tools/setup
	@PATH="$(CURDIR)/.venv/bin:$$PATH" tests/demo/run

# Every check and every test, at fixed seeds and small counts. ONLY=unit,lint runs some of them.
test:
	@tests/tools/setup checks
	@.venv/bin/python tests/tools/check.py --only "$(ONLY)"

# The tests against the lab, one after the other, at full counts: the whole kill matrix and every fault in a job (hours).
soak:
	@tests/tools/setup
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m pytest -q --soak tests/system
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m pytest -q --soak -m soak tests/unit

# The store's command line as one file, dist/stowage.pyz: docs/command-line.md.
cli:
	@python3 tests/tools/make_cli.py dist/stowage.pyz

setup:
	@tests/tools/setup checks

clean:
	rm -rf .cache .venv .venv-2.19 .mypy_cache .pytest_cache .ruff_cache tests/output dist
