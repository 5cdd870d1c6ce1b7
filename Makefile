.PHONY: check format slow

check:  ## lint, types and the default tests: about two minutes on 2 cores
	ruff check .
	ruff format --check .
	mypy
	pytest

format:  ## put imports and layout in order
	ruff check --fix .
	ruff format .

slow:  ## README commands, processes, kills and longer runs
	pytest -m "slow and not gpu" --durations=15
