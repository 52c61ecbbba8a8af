"""One model in other types, by llama.cpp: python benchmarks/requantise.py MODEL FOLDER [TYPE ...]

Writes FOLDER/TYPE.gguf for each, "Q4_K_M.gguf" say, and copies MODEL where it has the type already. Weights
that are quantised are expanded first: a file tells what its type costs, not how well the type does.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from ctypes import byref
from pathlib import Path

TYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q4_K_M": 15}  # llama_ftype in llama.h


def requantise(model: Path, folder: Path, kinds: Sequence[str] = tuple(TYPES)) -> list[Path]:
    """The model in each of the types. RuntimeError where llama.cpp does not write one."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_in_type(model, folder / f"{kind}.gguf", TYPES[kind]) for kind in kinds]


def _in_type(model: Path, made: Path, number: int) -> Path:
    import llama_cpp
    from llama_cpp._logger import set_verbose

    from microgpt_trace.readers.gguf import read_gguf_header

    if read_gguf_header(model).metadata.get("general.file_type") == number:
        shutil.copyfile(model, made)
        return made
    set_verbose(False)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = number, True, os.cpu_count() or 1
    if llama_cpp.llama_model_quantize(os.fsencode(model), os.fsencode(made), byref(params)):
        raise RuntimeError(f"{model}: llama.cpp did not write {made}")
    return made


if __name__ == "__main__":
    for written in requantise(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or tuple(TYPES)):
        print(written)
