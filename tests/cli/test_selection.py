"""The events that are shown, written as JSON and saved are one selection, and a note counts the others."""

import json
import re

import pytest
from safetensors.numpy import load_file
from support.commands import microgpt, refusal

from microgpt_trace import init, load, trace

OPTIONS = {
    "emma": ("", "--backward --step --time", "--ablate layer0.attn.head2 --backward"),
    "decoder": ("--positions 0,1", "--layers 0,1 --lens", "--generate 2"),
}


def saved(folder, line):
    """Return the names of the arrays that the command saves, and its note."""
    file = folder / "x.safetensors"
    done = microgpt(f"trace {line} --save {file} --force")
    assert done.code == 0, done.err
    (said,) = [text for text in done.lines if text.startswith("saved ")]
    return set(load_file(file)), said.replace(f" to {file}", "")


def names_of(events):
    return {e["name"] if e["phase"] == "forward" else f"{e['phase']}/{e['name']}" for e in events}


def counted(said):
    return [int(number) for number in re.findall(r"[0-9]+", said.partition("--layer")[0])]


@pytest.mark.parametrize(("text", "options"), [(text, o) for text, many in OPTIONS.items() for o in many])
def test_the_note_counts_the_saved_arrays_and_all_arrays(tmp_path, decoder, text, options):
    """The note has the counts of the files that are saved without and with --verbose."""
    line = f"emma {options}" if text == "emma" else f"{decoder} Ann {options}"
    some, said = saved(tmp_path, line)
    everything, said_of_all = saved(tmp_path, f"{line} --verbose")
    assert some < everything
    assert counted(said) == [len(some), len(everything), len(everything)]
    assert counted(said_of_all) == [len(everything)]
    assert said.endswith(", --layer '*.head*' the heads") == (text == "decoder")


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_json_with_values_notes_how_many_arrays_it_has(decoder, form):
    done = microgpt(f"trace emma {form} --values")
    assert done.lines == ["the JSON has the values of 17 of 25 arrays; --verbose has 25"]
    assert done.out.count('"values"') == 17
    for whole in ("--values --verbose", "--values --layer logits", ""):
        assert microgpt(f"trace emma {form} {whole}").err == ""
    (line,) = microgpt(f"trace {decoder} Ann {form} --values").lines
    assert line.endswith("--layer '*.head*' the heads")


def test_python_keeps_what_the_command_saves(tmp_path, decoder):
    model = load(decoder)
    for options, kept in (
        ("--verbose", {"values": True}),
        ("--layer '*.head*' --layer attn_out", {"names": ["*.head*", "attn_out"], "values": True}),
    ):
        run = trace(model, "Ann", **kept)
        assert {name for _, name in run.arrays} == saved(tmp_path, f"{decoder} Ann {options}")[0]
    run = trace(init(), "emma", backward=True, step=True, values=True)
    names = {name if phase == "forward" else f"{phase}/{name}" for phase, name in run.arrays}
    assert names == saved(tmp_path, "emma --backward --step --verbose")[0]


def test_the_default_is_the_overview_and_the_attention_weights(tmp_path, decoder):
    names, said = saved(tmp_path, "emma")
    assert said == "saved 17 of 25 arrays; --verbose saves 25"
    assert "layer0.attn.weights" in names
    assert names == names_of(json.loads(microgpt("trace emma --json").out)["events"])
    out = microgpt("trace emma").out
    assert len(re.findall(r"^\w+ [=@] .* +\[[0-9, ]*\] ", out, re.MULTILINE)) == len(names)
    names, _ = saved(tmp_path, f"{decoder} Ann")
    assert names == {"embed.tok", *(f"layer{i}.mlp.residual" for i in range(2)), "final.norm", "logits"}


def test_layer_selects_exactly_the_named_events(tmp_path, decoder):
    names, said = saved(tmp_path, f"{decoder} Ann --layer '*.head*'")
    assert said == f"saved {len(names)} arrays"
    assert all(".attn.head" in name for name in names)
    assert saved(tmp_path, f"{decoder} Ann --layer logits")[1] == "saved 1 array"
    assert saved(tmp_path, f"{decoder} Ann --verbose")[1].endswith("; --layer '*.head*' saves the heads")


def test_saving_does_not_change_the_output(tmp_path, decoder):
    for line in (f"{decoder} Ann --verbose", "emma --verbose", f"{decoder} Ann", "emma"):
        assert microgpt(f"trace {line} --save {tmp_path / 'x'} --force").out == microgpt(f"trace {line}").out


def test_a_patch_that_is_missing_in_the_file_says_how_to_save_it(tmp_path, decoder):
    file = tmp_path / "x.safetensors"
    saved(tmp_path, f"{decoder} Ann --verbose")
    line = refusal(f"trace {decoder} Ann --patch layer1.attn.head1={file}")
    assert "save it with `microgpt trace --layer 'layer1.attn.head*' --save FILE`" in line
    names, _ = saved(tmp_path, f"{decoder} Ann --layer 'layer1.attn.head*'")
    assert "layer1.attn.head1" in names
    assert microgpt(f"trace {decoder} Ann --patch layer1.attn.head1={file}").code == 0
