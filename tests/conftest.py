"""Models and files that several test modules share. All models but SmolLM2 are small and seeded."""

import gc
import os
import signal
from collections import Counter
from functools import cache

from microgpt_trace.arrays.threads import VARIABLES

gc.disable()  # until all tests are collected: looking for garbage takes a quarter of that time
for name in VARIABLES:  # one thread, as in the command; NumPy and PyTorch read this when they load
    os.environ.setdefault(name, "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from support.browser import axe, browser, page_file, page_of  # noqa: F401 (fixtures)
from support.real_model import SMOLLM2
from support.sweeps import current_commit, in_sweep, leave_out_of_sweep
from support.tiny_gpt2 import tiny_gpt2
from support.tiny_microgpts import CASES, Case
from support.tiny_models import CASES as DECODERS
from support.tiny_models import random_weights, tiny_model, write_folder
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import Model, init, load, save, train

PASSED = "microgpt_trace/passed"  # in pytest's cache
USUAL = ("default", "2 layers, 2 heads")  # these cases run every time


def pytest_configure(config):
    """Let hypothesis try few examples every time, more in the sweep, and most in the full sweep. A slow
    machine never fails a test."""
    examples = {"not sweep": 20, "not rest": 100}.get(config.option.markexpr, 300)
    slow = [HealthCheck.too_slow]
    settings.register_profile("searches", max_examples=examples, deadline=None, suppress_health_check=slow)
    settings.load_profile("searches")


def pytest_addoption(parser):
    parser.addoption(
        "--not-again", action="store_true", help="leave out the tests that passed in the last run"
    )
    parser.addoption("--draw", default=current_commit(), help="the word that draws the cases of the sweep")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marks
def pytest_collection_modifyitems(config, items):
    """Draw the sweep, and run the pages of docs/ first: one takes 30 s, in which other workers would wait at
    the end.

    Searches by hypothesis run again, because they try more examples in a sweep."""
    leave_out_of_sweep(items, config.option.draw)
    items.sort(key=lambda item: "test_the_examples_of_a_page" not in item.name)
    if config.option.not_again:
        passed = {*config.cache.get(PASSED, [])}
        left_out = [i for i in items if i.nodeid in passed and i.get_closest_marker("hypothesis") is None]
        items[:] = [item for item in items if item not in {*left_out}]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish():
    """Collect garbage from now on, but never look at the modules and tests again."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter):
    """Print the word that drew the sweep, and the number of skipped tests for each reason."""
    if terminalreporter.config.option.markexpr == "not rest":
        terminalreporter.write_line(f"the sweep is drawn by --draw={terminalreporter.config.option.draw}")
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped")
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:,} skipped: {reason}")


def pytest_sessionfinish(session):
    """Keep the names of the tests that passed for `--not-again`. Only the main process knows all."""
    cache = getattr(session.config, "cache", None)
    if cache is not None and not hasattr(session.config, "workerinput"):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        cache.set(PASSED, [report.nodeid for report in reporter.getreports("passed")])


@pytest.fixture(params=[name if name in USUAL else in_sweep(name) for name in CASES])
def case(request) -> Case:
    """Each microGPT case in turn."""
    return CASES[request.param]


@pytest.fixture
def deep() -> Case:
    """A microGPT with two layers and two heads."""
    return CASES["2 layers, 2 heads"]


@pytest.fixture
def default_signals():
    """Set Python's own signal handlers, even if nohup or a shell's & made the tests ignore signals."""
    handlers = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
    numbers = {getattr(signal, name): h for name, h in handlers.items() if hasattr(signal, name)}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def emma() -> Model:
    """The untrained default model in float32."""
    return init()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Files of microGPTs by name: one trained for a moment, one with two layers, one with NaN and Inf."""
    folder, broken, deep = tmp_path_factory.mktemp("checkpoints"), init(), CASES["2 layers, 2 heads"].model
    broken.params["wpe"][2, 5], broken.params["layer0.mlp_fc1"][7, 3] = np.nan, np.inf
    models = {
        "trained": train(steps=300),
        "deep": Model(deep.params.copy(np.float32), deep.tokenizer, "deep"),
        "broken": broken,
    }
    for name, model in models.items():
        save(model, folder / name)
    return {name: folder / name for name in models}


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory):
    """A function that writes a tiny decoder to a folder. `edit` changes its weights, `changes` its config."""

    def write(case="llama_gqa", edit=None, template=None, eos="</s>", **changes):
        config = DECODERS[case] | changes
        weights = random_weights(config, case)
        if edit is not None:
            edit(weights)
        folder = write_folder(tmp_path_factory.mktemp(case), config, weights)
        write_tokenizer(folder, template, eos)
        return folder

    return write


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """A function that returns (folder, model, config, weights) of a GPT-2."""

    @cache
    def model(case="gpt2"):
        folder = write_folder(tmp_path_factory.mktemp(case), *tiny_gpt2(case))
        write_tokenizer(folder)
        return folder, load(folder), *tiny_gpt2(case)

    return model


@pytest.fixture(scope="session")
def smollm2():
    pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")
    return load(SMOLLM2)


@pytest.fixture(scope="session")
def compared_folders(decoder_folder):
    return {case: decoder_folder(case) for case in ("llama_gqa", "qwen3", "qwen2")}


@pytest.fixture(scope="session")
def pairs(compared_folders):
    """Each model twice, each with its own hooks."""
    decoders = {case: (load(folder), load(folder)) for case, folder in compared_folders.items()}
    return decoders | {"microgpt": (init(), init())}


@pytest.fixture
def llama(pairs):
    return pairs["llama_gqa"]


@pytest.fixture(scope="session")
def decoders(tmp_path_factory):
    """A function that returns (model, config, weights) of a case."""

    @cache
    def model(case):
        config, weights = tiny_model(case)
        return load(write_folder(tmp_path_factory.mktemp(case), config, weights)), config, weights

    return model
