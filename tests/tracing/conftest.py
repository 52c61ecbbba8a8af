"""Decoders that several files trace."""

import pytest

from microgpt_trace import load


@pytest.fixture(scope="module")
def tiny(decoder_folder):
    return load(decoder_folder())


@pytest.fixture(scope="module")
def ten(decoder_folder):
    """A model of ten layers."""
    return load(decoder_folder(num_hidden_layers=10))
