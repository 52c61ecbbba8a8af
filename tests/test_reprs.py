"""Every object that a caller can reach has a short repr. test_notebook.py tests those of results."""

import numpy as np
from support.short_reprs import assert_short

from microgpt_trace import Config, Intervention, Tokenizer, diagnose, init, load, save, trace
from microgpt_trace.dumps.stored_arrays import save_arrays

LONG = "x" * 5000


def test_shortens_long_names_paths_and_vocabularies(tmp_path):
    folder = tmp_path / ("a" * 120) / ("b" * 120)
    folder.mkdir(parents=True)
    save(init(), folder / "m.safetensors")
    far = load(folder / "m.safetensors")
    wide = init(Config(block_size=1000))
    for value in (Tokenizer("".join(map(chr, range(0x4E00, 0x9E00)))), far, trace(far, "emma"), wide):
        assert_short(value, type(value).__name__)
    assert_short(trace(wide, LONG[:999], values=False), "trace")
    assert_short(Intervention("add", f"layer0.mlp.{LONG}", 4.0, np.zeros(16), LONG), "intervention")


def test_a_trace_names_its_text_and_model():
    assert repr(trace(init(), "emma")) == (
        "Trace(text='emma', model='untrained, seed 42', loss=3.16999, events=25, arrays=25)"
    )
    assert repr(init()).startswith("Model(origin='untrained, seed 42', parameters=4192, ")


def test_a_diagnosis_says_what_is_wrong(tmp_path):
    run = trace(init(), "emma")
    run.arrays["forward", "layer0.attn.norm"] *= 1.5
    save_arrays(run, tmp_path / "a.safetensors")
    result = diagnose(tmp_path / "a.safetensors", init())
    print(result, result.diagnosis)
    assert str(result).endswith("wrong='layer0.attn.norm')")
    start = "Diagnosis(clean=False, first_wrong='layer0.attn.norm', judged="
    assert str(result.diagnosis).startswith(start)
    assert "multiplied by" in str(result.diagnosis)
