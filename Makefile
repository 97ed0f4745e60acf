# make train: set up and train on the embedded data.   make test: set up and test.
PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
RUN = $(VENV)/bin/python

.PHONY: train test smoke lint clean

train: $(VENV)/.ready
	$(RUN) -m segjax.main --config configs/quickstart.py --workdir $(WORKDIR)

test: $(VENV)/.ready-test
	$(RUN) -m pytest -n 2 --dist loadfile

# The package as users install it, from training to exported files.
smoke:
	.ci/smoke $(PYTHON)

lint: $(VENV)/.ready-test
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

# Without an NVIDIA driver plain jax is installed in place of 5 GB of CUDA.
$(VENV)/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	if nvidia-smi > /dev/null 2>&1; then cp requirements.txt $(VENV)/requirements.txt; \
	  else sed 's/^jax\[cuda12\]/jax/' requirements.txt > $(VENV)/requirements.txt; fi
	$(RUN) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready requirements-test.txt requirements-onnx.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-onnx.txt
	touch $@

clean:
	rm -rf $(VENV)
