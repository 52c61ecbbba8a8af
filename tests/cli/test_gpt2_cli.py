"""Every command on a GPT-2: it works, what it says is true of it, what does not fit is refused."""

import re

import numpy as np
import pytest
from support.apr_files import apr_bytes, tiny_model, without
from support.commands import microgpt, refusal
from support.documents import valid, valid_lines
from support.explanations import sampled
from support.tiny_gpt2 import GPT2_FAULTS, GPT2S, IN_GGUF, gpt2_events, tiny_gpt2, write_gpt2_gguf
from support.tiny_models import TOKENS, write_folder
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace.architecture.steps import element_name

IDS = "--tokens " + ",".join(map(str, TOKENS))
LLAMAS_OWN = re.compile(r"(?i)\b(RMSNorm|SiLU|RoPE|gate)")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """A function that gives the GGUF file of a case."""
    pytest.importorskip("gguf")
    return lambda case: write_gpt2_gguf(tmp_path_factory.mktemp(case) / "m.gguf", *tiny_gpt2(case))


@pytest.fixture(scope="module")
def saved(gpt2, tmp_path_factory):
    """The trace of every event, saved."""
    path = tmp_path_factory.mktemp("saved") / "t.safetensors"
    works(f"trace {gpt2()[0]} {IDS} --layer * --save {path}")
    return path


def works(line, code=0):
    """What it prints, which speaks of nothing that only another architecture has."""
    done = microgpt(line)
    assert done.code == code, done.err or done.out
    said = (
        " ".join(done.out.split())
        .replace("LayerNorm in place of RMSNorm", "")
        .replace("(RMSNorm, not LayerNorm)", "")
        .replace('"rope": null', "")
    )
    assert not LLAMAS_OWN.search(said), LLAMAS_OWN.search(said)
    return done.out


def variant(tmp_path, weights=None, dtype="F32", **changes):
    """The folder of another GPT-2 with the same weights but for some, and another config."""
    config, own = tiny_gpt2("gpt2")
    folder = write_folder(tmp_path / "variant", config | changes, own | (weights or {}), dtype)
    write_tokenizer(folder)
    return folder


# --- trace ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    ["", "-v", "--lens", "--recheck", "--positions last", "--ablate layer0.attn.head1", "--validate",
     "--ablate embed.pos", "--ablate-mean layer1.mlp.norm", "--scale layer1.mlp.act=2", "--layer *norm"],
)  # fmt: skip
def test_trace(gpt2, options):
    works(f"trace {gpt2()[0]} {IDS} {options}")


@pytest.mark.parametrize("case", GPT2S)
def test_trace_as_documents(gpt2, case):
    document = valid(works(f"trace {gpt2(case)[0]} {IDS} -v --lens --generate 8 --json"), "trace")
    assert [check["id"] for check in document["checks"] if check["holds"] is False] == []
    assert [step["token"]["token"] for step in document["generation"]] == greedy(case, 8)
    valid_lines(works(f"trace {gpt2(case)[0]} {IDS} --jsonl"), "trace")


def greedy(case, count):
    """The tokens that the judge continues with, up to the EOS."""
    tokens = list(TOKENS)
    while len(tokens) < len(TOKENS) + count and tokens[-1] != GPT2S[case]["eos_token_id"]:
        tokens.append(int(gpt2_events(*tiny_gpt2(case), tokens)["logits"][-1].argmax()))
    return tokens[len(TOKENS) :]


def test_a_continuation_from_the_cache_is_checked(gpt2):
    out = " ".join(works(f"trace {gpt2()[0]} hello --generate 8 --recheck").split())
    print(re.search(r"decode steps equal .*?\)", out)[0])
    assert "6 of 6 hold, 1 not checked" in out


@pytest.mark.parametrize("case", IN_GGUF)
def test_trace_of_a_gguf(gguf, case):
    assert "positions   learned" in works(f"trace {gguf(case)} {IDS} -v --generate 4 --recheck")


def test_what_a_run_reveals_is_true_of_this_architecture(gpt2):
    out = " ".join(works(f"trace {gpt2('gpt2_erf')[0]} {IDS}").split())
    assert "~0: GELU outputs within" in out
    assert "bias subtracted and the gain divided out, every row has RMS 1" in out
    assert "a norm's L2 tells of its gain and bias" in out
    assert "2 layers instead of 1, GELU in place of ReLU, LayerNorm in place of RMSNorm, a gain" in out


def test_every_event_is_used(gpt2):
    assert "43 of 43 events are what the computation uses" in works(f"trace {gpt2()[0]} {IDS} --validate")


def test_patch_and_add_from_a_saved_trace(gpt2, saved, tmp_path):
    same = works(f"trace {gpt2()[0]} {IDS} --patch layer0.attn.out={saved} --layer logits")
    assert "mean KL 0" in same
    row = tmp_path / "row.npy"
    np.save(row, np.ones(32, np.float32))
    assert "→" in works(f"trace {gpt2()[0]} {IDS} --add layer0.mlp.residual={row} --layer logits")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trace {} helloworldhelloworld", ("20 tokens", "holds 16")),
        ("trace {} h --generate 16", ("1 token and 16 to generate", "holds 16")),
        ("trace {} hello --generate 12", ("5 tokens and 12 to generate", "holds 16")),
        (f"trace {{}} {IDS} --backward", ("--backward",)),
        (f"explain {{}} wpe[16,0] {IDS}", ("wpe",)),
    ],
)
def test_what_does_not_fit_is_one_line(gpt2, line, words):
    refusal(*line.format(gpt2()[0]).split())
    for word in words:
        assert word in refusal(*line.format(gpt2()[0]).split())


def test_the_longest_continuation(gpt2):
    works(f"trace {gpt2()[0]} hello --generate 11 --recheck")


def test_apr_refuses_it_by_name(tmp_path):
    (tmp_path / "m.apr").write_bytes(apr_bytes(without(architecture="gpt2"), tiny_model()[0]))
    assert "gpt2" in refusal("trace", tmp_path / "m.apr", *IDS.split())


REFUSED = {
    "h.1.attn.c_attn.bias": (None, {}, "'layer1.attn_bq' is missing"),
    "ln_f.bias": (None, {}, "'final_bnorm' is missing"),
    "wpe.weight": (None, {}, "'wpe' is missing"),
    "h.0.mlp.c_fc.weight": (np.transpose, {}, "expected shape [32, 128], found [128, 32]"),
    "h.0.attn.c_attn.weight": (np.transpose, {}, "expected 32 rows of q and 32 each of k and v"),
    "wte.weight": (np.copy, {"activation_function": "mish"}, "only 'gelu_new', 'gelu', 'relu' and 'silu'"),
    "ln_f.weight": (np.copy, {"tie_word_embeddings": False}, "'lm_head' is missing"),
    "h.0.attn.c_attn.bias": (np.sum, {}, "each of k and v, found a single number"),
    "h.0.ln_1.weight": (np.copy, {"n_positions": 32}, "expected shape [32, 32], found [16, 32]"),
}


@pytest.mark.parametrize("ending", REFUSED)
def test_files_that_are_no_gpt2_are_refused(tmp_path, ending):
    change, changes, words = REFUSED[ending]
    config, weights = tiny_gpt2("gpt2")
    name = f"transformer.{ending}"
    array = weights.pop(name)
    weights |= {} if change is None else {name: np.array(change(array), order="C")}
    folder = write_folder(tmp_path, config | changes, weights)
    assert words in refusal("trace", folder, *IDS.split())


@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_a_bias_that_no_layer_has_is_named(tmp_path, form):
    config, weights = tiny_gpt2("gpt2")
    weights = {name: array for name, array in weights.items() if "c_fc.bias" not in name}
    if form == "gguf":
        pytest.importorskip("gguf")
        path = write_gpt2_gguf(tmp_path / "m.gguf", config, weights)
    else:
        path = write_folder(tmp_path, config, weights)
    assert "a gpt2 has a bias 'layer0.mlp_bup', which is not there" in refusal("trace", path, *IDS.split())


def test_frequencies_of_rope_are_none_of_its_tensors(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    write = gguf.GGUFWriter.write_header_to_file

    def with_factors(writer):
        writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32))
        write(writer)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_factors)
    path = write_gpt2_gguf(tmp_path / "m.gguf", *tiny_gpt2("gpt2"))
    assert "'rope_freqs.weight' is none of a GPT-2" in refusal("trace", path, *IDS.split())


# --- explain, inspect ---------------------------------------------------------------------------------


def test_explain(gpt2):
    folder, model, _, _ = gpt2()
    shapes = model.plan.shapes(len(TOKENS)) | model.config.shapes()
    one_of_each = {name: shape for name, shape in shapes.items() if "layer1" not in name}
    for name, index in sampled(one_of_each):
        document = valid(works(f"explain {folder} {element_name(name, index)} {IDS} --json"), "explain")
        assert document["holds"] is not False, name
    assert "(embed.sum[3,5] - mean) / rms" in works(f"explain {folder} layer0.attn.norm[3,5] {IDS}")


def test_what_a_layer_norm_came_from_is_its_own_element(gpt2):
    for channel in range(32):
        out = works(f"explain {gpt2()[0]} layer0.attn.norm[3,{channel}] {IDS} --terms 1")
        came = out.partition("Came from")[2].partition("Goes to")[0]
        assert re.search(rf"embed\.sum\[3,{channel}\] .* and its row of 32", came), came
        assert "(x - mean) × 1/rms" in out
        assert "- -" not in out


def test_a_bias_is_no_largest_term(gpt2):
    for channel in range(32):
        out = works(f"explain {gpt2()[0]} layer0.attn.q[3,{channel}] {IDS}")
        came = out.partition("Came from")[2].partition("Goes to")[0]
        assert not re.search(r"attn_bq.*largest", came), came
        assert re.search(r"attn_wq.*in the largest of 33 terms", came), came


def test_inspect(gpt2, gguf):
    for path in (gpt2()[0], gguf("gpt2")):
        out = works(f"inspect {path} --stats --metadata")
        assert "positions   learned" in out
        assert "36 of 36 tensors" in out


# --- diff and diagnose --------------------------------------------------------------------------------


def test_diff_with_itself_and_with_its_gguf(gpt2, gguf):
    folder = gpt2()[0]
    assert "number for number: all 35 events" in works(f"diff {folder} {folder} {IDS}")
    said = works(f"diff {folder} {gguf('gpt2')} {IDS}")
    assert re.search("The same(, number for number)?: all 35 events", said), said  # as the BLAS adds up
    valid(works(f"diff {folder} {gguf('gpt2')} {IDS} --json"), "diff")
    out = works(f"diff {folder} {gguf('gpt2')} --weights")
    assert "The same, number for number: all 36 parameters" in out, out


VARIANTS = {
    "layer0.mlp.act": {"activation_function": "gelu"},
    "layer0.attn.norm": {"layer_norm_epsilon": 1e-2},
    "layer1.attn.scores": {"scale_attn_by_inverse_layer_idx": True},
    "layer0.attn.scores": {"scale_attn_weights": False},
    "embed.pos": {"weights": {"transformer.wpe.weight": np.ones((16, 32), np.float32)}},
    "final.norm": {"weights": {"transformer.ln_f.bias": np.zeros(32, np.float32)}},
}


@pytest.mark.parametrize("event", VARIANTS)
def test_diff_names_where_two_variants_part(gpt2, tmp_path, event):
    other = variant(tmp_path, **VARIANTS[event])
    out = works(f"diff {gpt2()[0]} {other} {IDS}", code=1)
    found = re.search(r"First divergence: (layer \d+, )?(.*?),", out)
    assert found[2] == event
    shown = re.search(r"A has (\S+), B has (\S+)", out)
    assert shown[1] != shown[2]


def test_its_own_trace_is_sound(gpt2, saved):
    assert "number for number: all 43 events" in works(f"diff {saved} {gpt2()[0]}")
    assert "All 43 operations follow" in works(f"diagnose {saved} {gpt2()[0]}")


def test_its_own_dumps_in_apr_stages(gpt2, tmp_path):
    folder = gpt2()[0]
    works(f"trace {folder} {IDS} --save-aprt {tmp_path / 'aprt'}")
    assert "agree, number for number" in works(f"diff {tmp_path / 'aprt'} {folder} {IDS}")
    assert "follow from their own inputs" in works(f"diagnose {tmp_path / 'aprt'} {folder} {IDS}")


@pytest.mark.parametrize("what", ["eps", "last mean kept", "positions one late", "erf", "bias twice"])
def test_diagnose_a_dump_with_a_fault(gpt2, tmp_path, what):
    folder, _, config, weights = gpt2()
    event, fault, words = GPT2_FAULTS[what]
    events = gpt2_events(config, weights, TOKENS, {event: fault})
    np.savez(tmp_path / "dump.npz", **{name: a.astype(np.float32) for name, a in events.items()})
    out = " ".join(works(f"diagnose {tmp_path / 'dump.npz'} {folder} {IDS}", code=1).split())
    assert words[0] in out


def test_diagnose_says_what_is_no_event_of_the_model(gpt2, tmp_path):
    folder, _, config, weights = gpt2()
    events = gpt2_events(config, weights, TOKENS)
    named = {"embed.tok": events["embed.tok"], "layer1.mlp.gate": events["layer1.mlp.up"]}
    np.savez(tmp_path / "dump.npz", **{name: a.astype(np.float32) for name, a in named.items()})
    done = microgpt(f"diagnose {tmp_path / 'dump.npz'} {folder} {IDS}")
    assert f"layer1.mlp.gate: not in {folder}" in " ".join(done.out.split())


LENS = {
    "hook_pos_embed": "embed.pos", "blocks.0.hook_resid_pre": "embed.sum",
    "blocks.0.hook_resid_mid": "layer0.attn.residual", "blocks.1.mlp.hook_pre": "layer1.mlp.up",
    "blocks.1.mlp.hook_post": "layer1.mlp.act", "Qcur-1": "layer1.attn.q", "Kcur-1": "layer1.attn.k",
}  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"hook_embed": "embed.tok"}])
def test_names_that_other_models_have_for_other_events(gpt2, tmp_path, more):
    folder, _, config, weights = gpt2()
    events, names = gpt2_events(config, weights, TOKENS), LENS | more
    np.savez(tmp_path / "dump.npz", **{name: events[own].astype(np.float32) for name, own in names.items()})
    for command in ("diff", "diagnose"):
        done = works(f"{command} {tmp_path / 'dump.npz'} {folder} {IDS} --json")
        document = valid(done, command)
        found = document["events" if command == "diff" else "operations"]
        assert {one["name"] for one in found} >= {*names.values()}


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_weights_in_half_precision_are_the_same(gpt2, tmp_path, dtype):
    out = works(f"diff {gpt2()[0]} {variant(tmp_path, dtype=dtype)} --weights")
    assert "36 parameters" in out


def test_weights_that_differ_are_named(gpt2, tmp_path):
    weights = tiny_gpt2("gpt2")[1]
    name = "transformer.h.1.mlp.c_fc.weight"
    other = variant(tmp_path, {name: weights[name] * 1.5})
    assert "layer1.mlp_wup: scaled" in works(f"diff {gpt2()[0]} {other} --weights", code=1)


# --- attribute, patch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GPT2S)
def test_attribute(gpt2, case):
    folder = gpt2(case)[0]
    document = valid(works(f"attribute {folder} {IDS} --target N --against U --json"), "attribute")
    names = {part["name"] for part in document["positions"][0]["parts"]}
    print(sorted(names))
    assert {"embed.tok", "embed.pos", "final_bnorm", "layer1.mlp_bdown", "layer0.attn.head3"} <= names
    assert "✓ the parts sum to the logits" in works(f"attribute {folder} {IDS} --target N --no-ablation")


def test_patch(gpt2):
    line = f"patch {gpt2()[0]} hello jello --target z --against E"
    assert "Self-check holds" in works(line)
    valid(works(f"{line} --sites layer0.attn.head* --json"), "patch")
