"""Fixtures: pages that each worker loads once, and a folder of files for all commands."""

import pytest
from support.browser import page_at  # noqa: F401 (a fixture)
from support.foreign_dumps import write_dump
from support.result_files import write_results_and_port

from microgpt_trace import load, trace


@pytest.fixture(scope="session")
def results(tmp_path_factory, decoder_folder):
    """A folder with models of both families, a wrong port, a dump, pairs to patch and a training log."""
    folder = tmp_path_factory.mktemp("results")
    write_results_and_port(folder, decoder_folder("qwen2"))
    (folder / "qwen3").symlink_to(decoder_folder("qwen3"))
    run = trace(load(folder / "qwen3"), "Ann ran", values=True)
    write_dump(folder / "dump", {name: array * 1.01 for (_, name), array in run.arrays.items()}, "ours")
    return folder
