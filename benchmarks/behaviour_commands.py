"""The commands that behaviour.py runs to compare two commits, and the files that these commands read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from models import smollm2

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

READ = "--tokens 17,3,44,3,60,0,29"  # the TOKENS of support/tiny_models.py
TERMINAL = (("FORCE_COLOR", "1"), ("COLUMNS", "120"), ("TERM", "xterm-256color"))
NARROW = (("COLUMNS", "60"),)
FAULTY = ("llama_gqa", "qwen2", "qwen3", "mistral_window")  # models with dumps that contain faults
EVERY = 5  # diagnose every 5th fault
LIBRARY = """
import sys
import numpy as np
from microgpt_trace import load, trace
model = load(sys.argv[1])
def show(event, value):
    total = value.astype(np.float64).sum()
    print(event.name, event.stage, event.layer, event.expr, event.shape, event.dtype, repr(total))
with model.hooks.subscribe(show), model.hooks.subscribe(lambda event, value: 2 * value, "layer1.attn.k"):
    result = trace(model, tokens=[1, 5, 5, 3], values=["logits"])
print(repr(result), repr(result.loss), repr(result["logits"].sum()))
"""


class Line(NamedTuple):
    """One command, with its additional environment variables."""

    words: str  # the words after `microgpt`, or after `python -c CODE`
    environment: tuple[tuple[str, str], ...] = ()
    code: str = ""


def _sections() -> dict[str, list[str]]:
    """Read the commands of behaviour.txt by section. "-" is `microgpt` without arguments."""
    sections: dict[str, list[str]] = {}
    for line in Path(__file__).with_name("behaviour.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            section.append("" if line == "-" else line)
    return sections


def make_inputs(folder: Path) -> None:
    """Write the input files: `work`, which each command gets a copy of, and `models`, which all share."""
    from attacks.good_files import make
    from support.tiny_models import CASES, fits_gguf, tiny_model, write_folder, write_gguf

    work, models = folder / "work", folder / "models"
    models.mkdir(parents=True)
    work.mkdir()
    make(work)
    (work / "cut.gguf").write_bytes((work / "m.gguf").read_bytes()[:5000])
    (work / "cut.safetensors").write_bytes((work / "c.safetensors").read_bytes()[:9000])
    for case in CASES:
        write_folder(models / case, *tiny_model(case))
        if fits_gguf(CASES[case]):
            write_gguf(models / f"{case}.gguf", *tiny_model(case))
    for case in FAULTY:
        _write_faulty(models, case)
    if model := smollm2():
        (models / "smollm2.gguf").symlink_to(model)


def _write_faulty(folder: Path, case: str) -> None:
    from support.faulty_engine import decoder_run
    from support.foreign_dumps import write_dump
    from support.tiny_models import TOKENS, tiny_model

    for fault in _faults(case):
        events = decoder_run(*tiny_model(case), TOKENS, fault)
        write_dump(folder / "faulty" / f"{case}.{fault.id}", events, "ours")


def _faults(case: str) -> list[Any]:
    from support.faults import decoder_faults
    from support.tiny_models import CASES

    return decoder_faults(CASES[case])[FAULTY.index(case) :: EVERY]


def lines() -> Iterator[Line]:
    """List all commands in a fixed order."""
    from attacks.good_files import PLAIN, READERS
    from support.tiny_models import CASES, fits_gguf

    sections = _sections()
    for item, commands in READERS.items():
        yield from (Line(command.replace("FILE", item)) for command in commands)
    yield from map(Line, (*PLAIN, *sections["microgpt"], *sections["wrong"]))
    for case in CASES:
        names = [f"models/{case}"] + [f"models/{case}.gguf"] * fits_gguf(CASES[case])
        commands = sections["every"] + sections["few"] * (case in FAULTY)
        yield from (Line(command.replace("FILE", name)) for name in names for command in commands)
        yield from (Line(name, code=LIBRARY) for name in names)
    for case in FAULTY:
        for fault in _faults(case):
            yield Line(f"diagnose 'models/faulty/{case}.{fault.id}' models/{case} {READ}")
            yield Line(f"diff models/{case} 'models/faulty/{case}.{fault.id}' {READ} --json")
    for words in sections["looks"]:
        yield from (Line(words, environment) for environment in (TERMINAL, NARROW))
    if smollm2():
        yield from (Line(command.replace("FILE", "models/smollm2.gguf")) for command in sections["smollm2"])
