"""Damaged files of every format: each opens, or is rejected with one line that names it and the damage."""

import sys
from functools import partial
from random import Random

import pytest
from attacks.formats import apr, checkpoint, dumps, gguf, huggingface, surveys
from attacks.good_files import make, restore
from attacks.mutations import mutate_again
from attacks.promise import snapshot
from support.commands import microgpt, refused
from support.hostile import open_safely
from support.sweeps import some_of

from microgpt_trace import init, load, save
from microgpt_trace.comparison.prompts import read_prompts
from microgpt_trace.microgpt.documents import read_lines
from microgpt_trace.naming.user_map import read_map
from microgpt_trace.patching.pairs import read_pairs
from microgpt_trace.timeline.reading import read_timeline

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


@pytest.mark.parametrize("name", FORMATS)
def test_rejects_damage_with_one_line(name, tmp_path):
    form = FORMATS[name]()
    assert open_safely(form.damaged(tmp_path), form.opened, form.memory) == ""
    wrong = [("", {key: value}) for key, values in form.wrong.items() for value in values]
    missed = []
    for words, *change in [*form.refused, *wrong]:
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


OPENED = {
    **dict.fromkeys(("m.gguf", "q.gguf", "hf", "sharded", "m.apr", "c.safetensors", "w.safetensors"), load),
    **dict.fromkeys(
        ("saved.safetensors", "doc.json", "aprt", "npy", "dump.npz", "dump.pt"), dumps.everything
    ),
    "s.survey.safetensors": surveys.opened,
    "log.jsonl": read_timeline,
    "map.toml": lambda path: read_map(path).match(["layer0.up_proj", "layer0.attn.q", "logits"], "dump"),
    "prompts.txt": read_prompts,
    "pairs.txt": read_pairs,
    "names.txt": read_lines,
}
MEMORY = 60 << 20  # bytes: sizes in a file may be damaged too


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    pytest.importorskip("gguf", reason="the package gguf writes the good files")
    pytest.importorskip("tokenizers", reason="the good files have vocabularies of production models")
    folder = tmp_path_factory.mktemp("good")
    make(folder)
    return folder


@pytest.mark.parametrize("seed", some_of(range(12), every=12, sweep=3))
@pytest.mark.parametrize("item", OPENED)
def test_opens_or_rejects_a_file_with_any_damage(item, seed, good, tmp_path):
    """Apply the mutations of the attacks, and read the files without a command."""
    rng, others = Random(f"{item}/{seed}"), sorted(file for file in good.rglob("*") if file.is_file())
    for _ in range(8):
        copy = restore(good / item, tmp_path / item)
        files = sorted(file for file in copy.rglob("*") if file.is_file()) if copy.is_dir() else [copy]
        print(mutate_again(rng, rng.choice(files), rng.choice(others)))
        open_safely(copy, OPENED[item], room=MEMORY)
