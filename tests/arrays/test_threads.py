"""How many threads the BLAS has: one, unless the environment says how many; as threadpoolctl counts them."""

import numpy as np
import pytest
from support.tiny_models import TOKENS
from threadpoolctl import threadpool_info, threadpool_limits

from microgpt_trace import load, trace
from microgpt_trace.arrays.threads import VARIABLES, one_blas_thread


def blas_threads():
    """Of every BLAS that is loaded."""
    np.ones((2, 2)) @ np.ones((2, 2))
    counts = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    print(counts)
    return counts


@pytest.fixture
def two(monkeypatch):
    """An environment that names no number, and a BLAS with two threads."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2, "blas"):
        if set(blas_threads()) != {2}:
            pytest.skip("this BLAS cannot be told how many threads it has")
        yield


def test_one_thread_within_and_as_before_afterwards(two):
    with one_blas_thread():
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {2}
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        1 / 0  # noqa: B018
    assert set(blas_threads()) == {2}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_number_of_the_environment_stands(two, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    with one_blas_thread():
        assert set(blas_threads()) == {2}


@pytest.mark.parametrize("named", [False, True])
def test_a_decoder_is_traced_on_one_thread(two, monkeypatch, decoder_folder, named):
    model, counts = load(decoder_folder()), []
    if named:
        monkeypatch.setenv(VARIABLES[0], "2")
    with model.hooks.subscribe(lambda e, v: counts.extend(blas_threads()), "layer0.attn.q", "logits"):
        trace(model, tokens=list(TOKENS), generate=2)
    assert set(counts) == ({2} if named else {1})
    assert set(blas_threads()) == {2}
