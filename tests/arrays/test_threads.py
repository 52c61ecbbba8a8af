"""Count the threads of the BLAS by threadpoolctl: one, unless an environment variable sets the number."""

import numpy as np
import pytest
from support.tiny_models import TOKENS
from threadpoolctl import threadpool_info, threadpool_limits

from microgpt_trace import load, trace
from microgpt_trace.arrays.threads import VARIABLES, one_blas_thread


def blas_threads():
    """Return the number of threads of every BLAS that is loaded."""
    np.ones((2, 2)) @ np.ones((2, 2))
    counts = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    print(counts)
    return counts


@pytest.fixture
def two_threads(monkeypatch):
    """Set the BLAS to two threads, in an environment without a number of threads."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2, "blas"):
        if set(blas_threads()) != {2}:
            pytest.skip("this BLAS does not let programs set the number of threads")
        yield


def test_one_blas_thread_restores_the_number_of_threads(two_threads):
    with one_blas_thread():
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {2}
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        1 / 0  # noqa: B018
    assert set(blas_threads()) == {2}


@pytest.mark.parametrize("name", VARIABLES)
def test_an_environment_variable_overrides_one_blas_thread(two_threads, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    with one_blas_thread():
        assert set(blas_threads()) == {2}


@pytest.mark.parametrize("is_set", [False, True])
def test_a_decoder_is_traced_on_one_thread(two_threads, monkeypatch, decoder_folder, is_set):
    model, counts = load(decoder_folder()), []
    if is_set:
        monkeypatch.setenv(VARIABLES[0], "2")
    with model.hooks.subscribe(lambda e, v: counts.extend(blas_threads()), "layer0.attn.q", "logits"):
        trace(model, tokens=list(TOKENS), generate=2)
    assert set(counts) == ({2} if is_set else {1})
    assert set(blas_threads()) == {2}
