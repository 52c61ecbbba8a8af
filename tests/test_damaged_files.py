"""Damaged files of every format: each opens, or is rejected with one line that names it and the damage."""

import sys
from functools import partial

import pytest
from attacks.formats import apr, checkpoint, dumps, gguf, huggingface, surveys
from attacks.promise import snapshot
from support.commands import microgpt, refused
from support.hostile import open_safely
from support.sweeps import some_of

from microgpt_trace import init, save

if sys.platform == "win32":
    pytest.skip("the damage replaces files by links and pipes", allow_module_level=True)

FORMATS = {
    "GGUF": gguf.gguf,
    "GGUF with yarn": lambda: gguf.scaled(gguf.gguf()),
    "split GGUF": gguf.split,
    ".apr": apr.apr,
    **{case: partial(huggingface.huggingface, case) for case in huggingface.CONFIGS},
    "gpt2": huggingface.gpt2,
    "config.json": huggingface.no_config,
    "safetensors": huggingface.safetensors,
    "shards": huggingface.sharded,
    "checkpoint": checkpoint.checkpoint,
    "bare weights": checkpoint.bare,
    "APRT": dumps.aprt,
    "APRT without a manifest": dumps.bare_aprt,
    "survey": surveys.survey,
    "npz": dumps.archive,
    "npy": dumps.array,
    "a folder of npy": dumps.folder,
    "saved arrays": dumps.saved,
}


@pytest.mark.parametrize("third", some_of(range(3), every=3))
@pytest.mark.parametrize("name", FORMATS)
def test_rejects_damage_with_one_line(name, third, tmp_path):
    form = FORMATS[name]()
    assert open_safely(form.damaged(tmp_path), form.opened, form.memory) == ""
    wrong = [("", {key: value}) for key, values in form.wrong.items() for value in values]
    missed = []
    for words, *change in [*form.refused, *wrong][third::3]:
        message = open_safely(form.damaged(tmp_path, *change), form.opened, form.memory)
        if not message or words not in message:
            missed.append(f"{words!r} ({str(change)[:200]}): {message!r}")
    assert not missed, "\n".join(missed)


COMMANDS = {
    "GGUF": ("inspect",), ".apr": ("trace", "--model"), "llama_gqa": ("inspect",), "survey": ("survey",),
    "checkpoint": ("sample", "--model"), "APRT": ("diff", "m"), "npz": ("diff", "m"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_one_line_and_writes_nothing(name, tmp_path):
    form = FORMATS[name]()
    save(init(), tmp_path / "m")
    for words, *change in (form.refused[3], form.refused[-1]):
        path = form.damaged(tmp_path, *change)
        before = snapshot(tmp_path)
        refused(microgpt(*COMMANDS[name], path.name, cwd=tmp_path), words, path.name)
        assert snapshot(tmp_path) == before
