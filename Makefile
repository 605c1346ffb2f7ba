# Everything a newcomer needs: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo node test docs lint setup system label-env deploy-env clean

help:
	@echo "make demo    set up .venv, simulate nine cameras, train, test and run thyroid_cls, draw synthetic scintigrams (about 10 minutes, 2 cores)"
	@echo "make node    an archive that runs the classifiers on what it receives, see deploy/orthanc/README.md (MODELS=folder)"
	@echo "make setup   .venv with everything that is needed"
	@echo "make test    set up what is needed, check style and types, run the tests"
	@echo "make docs    the site, in build/site"
	@echo "make lint    ruff and mypy only"
	@echo "make deploy-env  .venv-deploy with the MONAI Deploy SDK, to run deploy/app (Linux)"
	@echo "make label-env   .venv-label, the separate environment of MONAI Label (deploy/monailabel)"
	@echo "make clean   remove environments, demo/, build/ and caches"

setup: $(STAMP)

# torch comes first and alone: whichever build pip is configured for (CPU or CUDA) then stays.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; say make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV): torch, MONAI and what they need (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python -m tools demo

docs: setup
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs . build/site
	@echo "open build/site/index.html"

MODELS ?= bundles
node: setup
	$(BIN)/python -m deploy.orthanc --models $(MODELS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What only Debian has: the DICOM validator dciodvfy, Orthanc with what the node needs, a browser. Without one of them
# (and without root) the tests that need it are skipped and say so.
system:
	@export PATH="$$PATH:/usr/sbin"; \
	for tool in dciodvfy:dicom3tools Orthanc:orthanc storescu:dcmtk cc:gcc chromium:chromium; do \
		command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; \
	done; \
	ls /usr/share/orthanc/plugins/*DicomWeb* >/dev/null 2>&1 || missing="$$missing orthanc-dicomweb libc6-dev"; \
	[ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; } || \
		echo "not installed, their tests will be skipped:$$missing"

# The MONAI Deploy SDK needs older packages than ours beside it, and installs into MONAI's own folder, from where every
# `import monai` would import it. So it has an environment of its own, which finds the rest in ours.
DEPLOY := .venv-deploy
SITE := import sysconfig; print(sysconfig.get_path("purelib"))

deploy-env: $(DEPLOY)/.installed

$(DEPLOY)/.installed: deploy/app/requirements.txt $(STAMP)
	$(BIN)/python -m venv --clear --without-pip $(DEPLOY)
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(SITE)')')" > "$$($(DEPLOY)/bin/python -c '$(SITE)')/development.pth"
	$(DEPLOY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-installed -c constraints.txt monai
	$(DEPLOY)/bin/python -m pip install --quiet --disable-pip-version-check -r deploy/app/requirements.txt
	@touch $@

# A GPL decoder that scintikit must not depend on, kept apart and only tested against.
$(VENV)/gpl/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/gpl -c constraints.txt pylibjpeg-libjpeg
	@touch $@

test: lint system $(VENV)/gpl/.installed $(if $(filter Linux,$(shell uname)),deploy-env)
	SCINTIKIT_GPL_DECODER=$(abspath $(VENV)/gpl) OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

# MONAI Label cannot share an environment with scintikit: deploy/monailabel/README.md says why.
label-env:
	PYTHON=$(PYTHON) deploy/monailabel/make_environment.sh $(VENV)-label

clean:
	rm -rf $(VENV) $(VENV)-label $(DEPLOY) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
