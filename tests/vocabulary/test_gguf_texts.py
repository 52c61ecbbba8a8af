"""The command line reads texts for GGUF files of models with newer tokenizers."""

import json

import pytest
from support.commands import microgpt, refusal
from support.gguf_files import rewrite
from support.gguf_of_torch import write_gguf_of
from support.model_tokenizers import KINDS, gguf_metadata, random_texts, write_folder
from support.sweeps import in_sweep
from support.torch_models import torch_model

from microgpt_trace.readers.gguf import read_gguf_header

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
TEXT = "x.append(I'm) 日本 12345  re\u0301sume\u0301"


def file_of(model, kind, folder):
    """Write a GGUF file of a tiny model with a small tokenizer, and return the path."""
    kind = KINDS[kind]
    metadata = gguf_metadata(kind, *write_folder(kind, folder, random_texts(kind, 400)))
    del metadata["general.architecture"], metadata["tokenizer.chat_template"]
    size = len(metadata["tokenizer.ggml.tokens"])
    write_gguf_of(
        torch_model(model, {"vocab_size": size, "vocab_size_per_layer_input": size}), folder / "a.gguf"
    )
    return rewrite(folder / "model.gguf", read_gguf_header(folder / "a.gguf"), metadata)


@pytest.mark.parametrize(
    ("model", "kind"),
    [("glm4", "glm-4"), in_sweep(("deepseek_v3", "deepseek-3")), in_sweep(("gemma4_text", "gemma-4"))],
)
def test_trace_reads_a_text(model, kind, tmp_path):
    path = file_of(model, kind, tmp_path)
    done = microgpt("trace", path, TEXT, "--json")
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"]
    found = json.loads(done.out)["input"]["tokens"]
    print(found, expected)
    assert found == expected


def test_an_unknown_pre_tokenizer_is_refused_with_advice(tmp_path):
    path = file_of("glm4", "glm-4", tmp_path)
    path = rewrite(tmp_path / "b.gguf", read_gguf_header(path), {"tokenizer.ggml.pre": "viking"})
    line = refusal("trace", path, "a")
    assert "its pre-tokenizer 'viking' is not one of gpt-2, " in line
    assert line.endswith("; give the prompt as --tokens 1,2,3")
    assert microgpt("trace", path, "--tokens", "1,2").code == 0
