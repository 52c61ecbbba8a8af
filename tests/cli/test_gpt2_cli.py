"""Every command on a GPT-2: its output describes a GPT-2, and unsuitable inputs are refused."""

import re

import numpy as np
import pytest
from support.apr_files import apr_bytes, tiny_model, without
from support.commands import microgpt, refusal, refused
from support.documents import valid, valid_lines
from support.sweeps import some_of
from support.tiny_gpt2 import GPT2S, gpt2_events, tiny_gpt2, write_gpt2_gguf
from support.tiny_models import TOKENS, write_folder
from support.tiny_tokenizer import write_tokenizer

IDS = "--tokens " + ",".join(map(str, TOKENS))
LLAMAS_OWN = re.compile(r"(?i)\b(RMSNorm|SiLU|RoPE|gate)")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """A function that writes the GGUF file of a case and returns its path."""
    pytest.importorskip("gguf")
    return lambda case: write_gpt2_gguf(tmp_path_factory.mktemp(case) / "m.gguf", *tiny_gpt2(case))


@pytest.fixture(scope="module")
def saved(gpt2, tmp_path_factory):
    """The path of a saved trace of every event."""
    path = tmp_path_factory.mktemp("saved") / "t.safetensors"
    works(f"trace {gpt2()[0]} {IDS} --layer * --save {path}")
    return path


def works(line, code=0):
    """Run a command and return its output, which must not mention parts of other architectures."""
    done = microgpt(line)
    assert done.code == code, done.err or done.out
    said = " ".join(done.out.split())
    for words in ("LayerNorm in place of RMSNorm", "(RMSNorm, not LayerNorm)", '"rope": null'):
        said = said.replace(words, "")
    assert not LLAMAS_OWN.search(said), LLAMAS_OWN.search(said)
    return done.out


def variant(tmp_path, weights=None, dtype="F32", **changes):
    """Write the folder of a GPT-2 in which some weights and settings differ."""
    config, own = tiny_gpt2("gpt2")
    folder = write_folder(tmp_path / "variant", config | changes, own | (weights or {}), dtype)
    write_tokenizer(folder)
    return folder


# --- What each command says ------------------------------------------------------------------------

SAID = {  # of {0}, the GPT-2, and of the files of the fixture
    f"trace {{0}} {IDS} -v --lens --recheck": [],
    f"trace {{0}} {IDS} --positions last --ablate layer0.attn.head1 --ablate embed.pos": [],
    f"trace {{0}} {IDS} --ablate-mean layer1.mlp.norm --scale layer1.mlp.act=2 --layer *norm": [],
    f"trace {{0}} {IDS} --validate": ["43 of 43 events are used by the computation"],
    f"trace {{erf}} {IDS}": [
        "~0: share of GELU outputs within",
        "bias subtracted and the gain divided out, every row has RMS 1",
        "the L2 after a norm depends on its gain and bias",
        "2 layers instead of 1, GELU in place of ReLU, LayerNorm in place of RMSNorm, a gain",
    ],
    f"trace {{gguf}} {IDS} -v --generate 4 --recheck": ["positions learned"],
    "trace {0} hello --generate 8 --recheck": ["6 of 6 hold, 1 not checked"],
    "trace {0} hello --generate 11 --recheck": [],  # the longest continuation
    f"trace {{0}} {IDS} --patch layer0.attn.out={{saved}} --layer logits": ["mean KL 0"],
    f"trace {{0}} {IDS} --add layer0.mlp.residual={{row}} --layer logits": ["→"],
    f"explain {{0}} layer0.attn.norm[3,5] {IDS}": ["(embed.sum[3,5] - mean) / rms"],
    "inspect {0} --stats --metadata": ["positions learned", "36 of 36 tensors"],
    "inspect {gguf} --stats --metadata": ["positions learned", "36 of 36 tensors"],
    f"diff {{0}} {{0}} {IDS}": ["all 35 events agree number for number"],
    f"diff {{0}} {{gguf}} {IDS}": ["The same", "all 35 events"],  # number for number, as the BLAS adds up
    "diff {0} {gguf} --weights": ["All 36 parameters are equal, number for number"],
    "diff {0} {half} --weights": ["36 parameters"],
    "diff {saved} {0}": ["all 43 events agree number for number"],
    "diagnose {saved} {0}": ["All 43 operations follow"],
    f"diff {{aprt}} {{0}} {IDS}": ["agree number for number"],
    f"diagnose {{aprt}} {{0}} {IDS}": ["follow from their own inputs"],
    "patch {0} hello jello --target z --against E": ["Self-check holds"],
}


@pytest.fixture(scope="module")
def files(gpt2, gguf, saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "row.npy", np.ones(32, np.float32))
    works(f"trace {gpt2()[0]} {IDS} --save-aprt {folder / 'aprt'}")
    return {
        "erf": gpt2("gpt2_erf")[0], "gguf": gguf("gpt2"), "saved": saved, "row": folder / "row.npy",
        "half": variant(folder, dtype="BF16"), "aprt": folder / "aprt",
    }  # fmt: skip


@pytest.mark.parametrize("line", some_of(SAID, every=3))
def test_output_describes_this_architecture(gpt2, files, line):
    out = " ".join(works(line.format(gpt2()[0], **files)).split())
    assert [words for words in SAID[line] if words not in out] == []


# --- trace ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", some_of(GPT2S, every=3))
def test_trace_as_documents(gpt2, case):
    document = valid(works(f"trace {gpt2(case)[0]} {IDS} -v --lens --generate 8 --json"), "trace")
    assert [check["id"] for check in document["checks"] if check["holds"] is False] == []
    assert [step["token"]["token"] for step in document["generation"]] == greedy(case, 8)
    valid_lines(works(f"trace {gpt2(case)[0]} {IDS} --jsonl"), "trace")


def greedy(case, count):
    """Return the tokens with which the reference continues, up to EOS."""
    tokens = list(TOKENS)
    while len(tokens) < len(TOKENS) + count and tokens[-1] != GPT2S[case]["eos_token_id"]:
        tokens.append(int(gpt2_events(*tiny_gpt2(case), tokens)["logits"][-1].argmax()))
    return tokens[len(TOKENS) :]


@pytest.mark.parametrize(("line", "words"), [
    ("trace {} helloworldhelloworld", ("20 tokens", "at most 16 tokens")),
    ("trace {} hello --generate 12", ("5 tokens and 12 to generate", "at most 16 tokens")),
    (f"trace {{}} {IDS} --step", ("--step",)), (f"explain {{}} wpe[16,0] {IDS}", ("wpe",)),
])  # fmt: skip
def test_refuses_inputs_that_a_gpt2_cannot_take(gpt2, line, words):
    refused(microgpt(line.format(gpt2()[0])), *words)


REFUSED = {
    "h.1.attn.c_attn.bias": (None, {}, "'layer1.attn_bq' is missing"),
    "ln_f.bias": (None, {}, "'final_bnorm' is missing"), "wpe.weight": (None, {}, "'wpe' is missing"),
    "c_fc.bias": (None, {}, "the bias 'layer0.mlp_bup' is missing; every gpt2 has this bias"),
    "h.0.mlp.c_fc.weight": (np.transpose, {}, "expected shape [32, 128], found [128, 32]"),
    "h.0.attn.c_attn.weight": (np.transpose, {}, "expected 32 rows of q, 32 rows of k and 32 rows of v"),
    "wte.weight": (np.copy, {"activation_function": "mish"}, "'mish' is not supported; supported: silu,"),
    "ln_f.weight": (np.copy, {"tie_word_embeddings": False}, "'lm_head' is missing"),
    "h.0.attn.c_attn.bias": (np.sum, {}, "32 rows of v, found a single number"),
    "h.0.ln_1.weight": (np.copy, {"n_positions": 32}, "expected shape [32, 32], found [16, 32]"),
}  # fmt: skip


def spoiled(ending, change=None, **changes):
    """Return the config and the weights, with the weights of this ending changed or left out."""
    config, weights = tiny_gpt2("gpt2")
    found = {n: array for n, array in weights.items() if n.endswith(ending)}
    weights = {n: array for n, array in weights.items() if n not in found}
    changed = {} if change is None else {n: np.array(change(a), order="C") for n, a in found.items()}
    return config | changes, weights | changed


@pytest.mark.parametrize("ending", REFUSED)
def test_refuses_folders_that_are_not_a_gpt2(tmp_path, ending):
    change, changes, words = REFUSED[ending]
    folder = write_folder(tmp_path, *spoiled(ending, change, **changes))
    assert words in refusal("trace", folder, *IDS.split())


def test_refuses_gguf_and_apr_files_that_are_not_a_gpt2(tmp_path, monkeypatch):
    (tmp_path / "m.apr").write_bytes(apr_bytes(without(architecture="gpt2"), tiny_model()[0]))
    assert "gpt2" in refusal("trace", tmp_path / "m.apr", *IDS.split())
    gguf = pytest.importorskip("gguf")
    path = write_gpt2_gguf(tmp_path / "m.gguf", *spoiled("c_fc.bias"))
    assert "'layer0.mlp_bup' is missing; every gpt2 has this bias" in refusal("trace", path, *IDS.split())
    write = gguf.GGUFWriter.write_header_to_file

    def with_factors(writer):
        writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32))
        write(writer)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_factors)
    path = write_gpt2_gguf(tmp_path / "rope.gguf", *tiny_gpt2("gpt2"))
    assert "'rope_freqs.weight' is not part of a GPT-2" in refusal("trace", path, *IDS.split())


# --- diff and diagnose --------------------------------------------------------------------------------


def dump_of(gpt2, folder, events=None, faults=None):
    """Write a dump of the reference values. `events` maps the names in the dump to our events."""
    _, _, config, weights = gpt2()
    found = gpt2_events(config, weights, TOKENS, faults)
    named = {name: found[own] for name, own in (events or {own: own for own in found}).items()}
    np.savez(folder / "dump.npz", **{name: a.astype(np.float32) for name, a in named.items()})
    return folder / "dump.npz"


LENS = {
    "hook_pos_embed": "embed.pos", "blocks.0.hook_resid_pre": "embed.sum",
    "blocks.0.hook_resid_mid": "layer0.attn.residual", "blocks.1.mlp.hook_pre": "layer1.mlp.up",
    "blocks.1.mlp.hook_post": "layer1.mlp.act", "Qcur-1": "layer1.attn.q", "Kcur-1": "layer1.attn.k",
}  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"hook_embed": "embed.tok"}])
def test_reads_names_that_mean_other_events_in_other_models(gpt2, tmp_path, more):
    dump = dump_of(gpt2, tmp_path, LENS | more)
    for command, rows in (("diff", "events"), ("diagnose", "operations")):
        document = valid(works(f"{command} {dump} {gpt2()[0]} {IDS} --json"), command)
        assert {one["name"] for one in document[rows]} >= {*(LENS | more).values()}
