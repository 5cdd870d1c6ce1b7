.PHONY: check docs format slow measure

check:  ## lint, types and the default tests: about six minutes on 2 cores
	ruff check .
	ruff format --check .
	mypy
	OMP_WAIT_POLICY=passive pytest -n 2

docs:  ## the documentation as a site in build/site
	mkdocs build --strict --site-dir build/site

format:  ## sort imports and format the code
	ruff check --fix .
	ruff format .

slow:  ## commands of the documentation, the wheel, several processes, kills and longer runs
	OMP_WAIT_POLICY=passive pytest -n 2 --maxschedchunk 1 -m "slow and not gpu" --durations=15

measure:  ## the metrics of fine-tuning and probing in recipes/LOG.md; resumes where it stopped
	python recipes/measure.py --data $(DATA) $(if $(ENGLISH),--english $(ENGLISH)) $(if $(CHINESE),--chinese $(CHINESE)) \
		$(if $(KNOWN_GOOD),--known-good $(KNOWN_GOOD))
