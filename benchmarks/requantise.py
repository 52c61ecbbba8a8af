"""Convert a model to other types with llama.cpp: python benchmarks/requantise.py MODEL FOLDER [TYPE ...]

Writes FOLDER/TYPE.gguf for each type, such as Q4_K_M.gguf. Copies MODEL if it already has the type. Quantised
weights are expanded and quantised again, so use the files to measure speed, not quality.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from ctypes import byref
from pathlib import Path

TYPES = {  # llama_ftype in llama.h
    "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_M": 15,
    "Q5_K_M": 17, "Q6_K": 18, "IQ4_XS": 30,
}  # fmt: skip


def requantise(model: Path, folder: Path, kinds: Sequence[str] = tuple(TYPES)) -> list[Path]:
    """Write the model in each type and return the files. Raises RuntimeError if llama.cpp fails."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_convert(model, folder / f"{kind}.gguf", TYPES[kind]) for kind in kinds]


def _convert(model: Path, out: Path, number: int) -> Path:
    import llama_cpp
    from llama_cpp._logger import set_verbose

    from microgpt_trace.readers.gguf import read_gguf_header

    if read_gguf_header(model).metadata.get("general.file_type") == number:
        shutil.copyfile(model, out)
        return out
    set_verbose(False)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = number, True, os.cpu_count() or 1
    if llama_cpp.llama_model_quantize(os.fsencode(model), os.fsencode(out), byref(params)):
        raise RuntimeError(f"{model}: llama.cpp could not write {out}")
    return out


if __name__ == "__main__":
    for written in requantise(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or tuple(TYPES)):
        print(written)
