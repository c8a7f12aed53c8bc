# Two commands do everything: `make demo` and `make test`. Both install first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two BLAS threads on two shared cores spin against each other; one thread a process is faster.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

.PHONY: install demo real-model real-training vllm test coverage check bench clean
.DEFAULT_GOAL := test

install: $(VENV)/.installed

# torch goes first and alone: asked for as a dependency it would resolve to a build with gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		test -x $(BIN)/python || uv venv --python 3.11 --seed $(VENV); \
	else \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/spectra study training/demo.yaml --out runs/demo

# SmolLM2-135M with a LoRA run made by plain TRL: every table number against dense float64. About a quarter of an hour.
real-model: install
	$(BIN)/python analysis/real_model/convert_gguf.py --out runs/smollm2/base
	$(BIN)/python analysis/real_model/train_with_plain_trl.py --base runs/smollm2/base --out runs/smollm2/run
	$(BIN)/spectra analyze runs/smollm2/run
	$(BIN)/python analysis/real_model/check_against_dense.py runs/smollm2/base runs/smollm2/run --report reports/real_model.md

# The same model by spectra's own trainer: two GRPO steps of LoRA and of DoRA, analysed and compared.
real-training: install
	test -d runs/smollm2/base || $(BIN)/python analysis/real_model/convert_gguf.py --out runs/smollm2/base
	$(BIN)/python analysis/real_model/write_problems.py --out runs/smollm2/problems.jsonl
	$(BIN)/spectra study training/smollm2.yaml --out runs/smollm2/study

# GRPO with vLLM as the sampler, in the trainer's process and as a server, on the CPU, in an environment of its own
# (3.7 GB): frozen weights bit for bit. To start a server: training/vllm/README.md.
VLLM_VENV := .venv-vllm
vllm: $(VLLM_VENV)/.installed
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_ENABLE_V1_MULTIPROCESSING=0 SPECTRA_REQUIRE_VLLM=1 \
		$(VLLM_VENV)/bin/python -m pytest tests/training/sampling/test_*vllm*.py

$(VLLM_VENV)/.installed: training/vllm/install.py pyproject.toml
	$(PYTHON) training/vllm/install.py $(VLLM_VENV)
	@touch $@

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Lines and branches of spectra that the tests run; the floor is a bound to raise to what is measured.
COVERAGE_FLOOR := 90
coverage: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term \
		--cov-fail-under=$(COVERAGE_FLOOR)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m pytest tests/benchmarks -p no:xdist -s --run-benchmarks
	$(BIN)/python analysis/performance.py --out runs/performance --report runs/performance/performance.md

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist build
