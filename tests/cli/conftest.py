"""A decoder, and the files that the commands in these tests read."""

import pytest
from support.result_files import write_results_and_port


@pytest.fixture(scope="module")
def decoder(compared_folders):
    return compared_folders["llama_gqa"]


@pytest.fixture(scope="module")
def results(tmp_path_factory, decoder_folder):
    folder = tmp_path_factory.mktemp("results")
    write_results_and_port(folder, decoder_folder("qwen2"))
    return folder
