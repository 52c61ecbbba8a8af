"""The command `microgpt certify` on odd, broken and unlike models. It ends in a certificate, or in one line
with exit code 2."""

import json
import os
import shutil
import signal
import sys

import pytest
from support.commands import microgpt
from support.export_vocabularies import written
from support.gguf_files import rewrite
from support.sweeps import in_sweep
from support.tiny_gpt2 import gpt2_config, random_gpt2, write_gpt2_gguf
from support.tiny_models import random_weights, rope_4, round_weights, tiny_config, write_folder, write_gguf

from microgpt_trace import init
from microgpt_trace.certification.certify import certify
from microgpt_trace.certification.prediction_checks import IDS
from microgpt_trace.microgpt.checkpoint import save
from microgpt_trace.progress import unreported
from microgpt_trace.readers.gguf import read_gguf_header

pytest.importorskip("gguf", reason="gguf writes the files")
pytest.importorskip("tokenizers", reason="tokenizers writes the vocabularies")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a folder with sound models (llama, gpt2, other) and odd ones."""
    root = tmp_path_factory.mktemp("models")
    for name, kind in (("llama", "smollm"), ("gpt2", "gpt-2")):
        vocabulary, source = written(kind)
        size = {"vocab_size": len(vocabulary["tokenizer.ggml.tokens"])}
        config = tiny_config(**size, **rope_4()) if name == "llama" else gpt2_config(**size)
        weights = (random_weights if name == "llama" else random_gpt2)(config, name)
        write_folder(root / name, config, weights)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / file, root / name / file)
        (write_gguf if name == "llama" else write_gpt2_gguf)(root / "plain.gguf", config, weights)
        header = read_gguf_header(root / "plain.gguf")
        own = {key: value for key, value in vocabulary.items() if key != "general.architecture"}
        rewrite(root / f"{name}.gguf", header, own)
        if name == "llama":
            shutil.copy(root / "plain.gguf", root / "mute.gguf")
            kept = [tensor for tensor in header.tensors if tensor.name != "blk.0.attn_output.weight"]
            rewrite(root / "lost.gguf", header, own, kept)
            write_folder(root / "mute", config, weights)
            write_folder(root / "other", config, round_weights(weights, "BF16"))
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(source / file, root / "other" / file)
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_hidden_layers": 5}
    config = tiny_config(**sizes, vocab_size=99, **rope_4(300.0))
    write_folder(root / "sizes", config, random_weights(config, "sizes"))
    (root / "bare").mkdir()
    shutil.copy(root / "llama" / "config.json", root / "bare")
    (root / "empty.gguf").touch()
    (root / "none.txt").touch()
    (root / "one.txt").write_text("Hello, world!\n")
    return root


def run(models, *words):
    done = microgpt("certify", *words, cwd=models)
    print(done.code, done.out, done.err)
    return done


@pytest.mark.parametrize("size", [0, 4, 20, 100, 5000, -3000])
def test_a_file_that_is_cut_short_is_refused_in_one_line(models, tmp_path, size):
    path = tmp_path / "cut.gguf"
    path.write_bytes((models / "llama.gguf").read_bytes()[:size])
    for pair in ([path, "llama"], ["llama", path]):
        done = run(models, *pair)
        assert (done.code, done.out, len(done.lines)) == (2, "", 1)
        assert "cut.gguf" in done.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["empty.gguf", "llama"], "empty.gguf: expected"),
        (["bare", "llama"], "bare: expected model.safetensors"),
        (["llama.gguf", "bare"], "bare: expected model.safetensors"),
        (["nowhere", "llama"], "nowhere: no such file"),
        (["llama"], "expected two models: microgpt certify EXPORT ORIGINAL"),
        (["llama.gguf", "llama", "--texts", "none.txt"], "none.txt: expected"),
        (["llama.gguf", "llama", "--texts", "llama.gguf"], "llama.gguf: expected UTF-8"),
        (["llama.gguf", "llama", "--max-kl", "-1"], "expected a number of at least 0"),
        (["llama.gguf", "llama", "--max-kl", "nan"], "expected a number of at least 0"),
        (["llama.gguf", "llama", "--confirm", "3"], "--confirm needs --by-tensor"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(models, words, expected):
    done = run(models, *words)
    assert (done.code, done.out, len(done.lines)) == (2, "", 1)
    assert expected in done.err


def test_a_microgpt_is_refused_in_one_line(models, tmp_path):
    save(init(seed=3), tmp_path / "m.safetensors")
    done = run(models, tmp_path / "m.safetensors", "llama")
    assert (done.code, done.out, len(done.lines)) == (2, "", 1)
    assert "found a microGPT" in done.err


ONE = ["--texts", "one.txt"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["llama.gguf", "llama.gguf", *ONE], 0, "The export is the same model as the original"),
        in_sweep((["llama", "llama", "--max-kl", "0", *ONE], 0, "is the same model")),
        (["other", "llama", "--max-kl", "0", *ONE], 1, "--max-kl allows 0"),
        in_sweep((["other", "llama", *ONE], 0, "up to the rounding of its types")),
        (["mute.gguf", "llama", *ONE], 1, "checks could not be made"),
        in_sweep((["llama.gguf", "mute", *ONE], 1, "checks could not be made")),
        (["lost.gguf", "llama", "--by-tensor", *ONE], 1, "weights.missing"),
        (["sizes", "llama", "--by-tensor", *ONE], 1, "settings.n_embd"),
        in_sweep((["llama.gguf", "sizes", "--by-tensor", *ONE], 1, "settings.n_embd")),
        (["gpt2.gguf", "llama", "--by-tensor", *ONE], 1, "settings.architecture"),
        in_sweep((["llama", "gpt2.gguf", "--by-tensor", *ONE], 1, "settings.architecture")),
        in_sweep((["sizes", "gpt2", "--by-tensor", "--confirm", "1", *ONE], 1, "settings.architecture")),
    ],
)
def test_odd_pairs_get_a_certificate(models, words, code, expected):
    done = run(models, *words)
    assert (done.code, done.err) == (code, "")
    assert expected in " ".join(done.out.split())


@pytest.mark.parametrize("words", [["other", "llama", "--by-tensor"], in_sweep((["gpt2", "llama.gguf"],))])
def test_the_document_fits_its_schema_and_can_be_drawn(models, tmp_path, words):
    jsonschema = pytest.importorskip("jsonschema")
    out, page, figure = (tmp_path / name for name in ("c.json", "c.html", "c.svg"))
    plot = ["--plot", figure] if "--by-tensor" in words else []
    done = run(models, *words, *ONE, "--json", "--out", out, "--html", page, *plot)
    assert done.code == (words[0] == "gpt2")
    document = json.loads(out.read_text(encoding="utf-8"))
    jsonschema.validate(document, json.loads(run(models, "--schema").out))
    assert document["schema"] == "microgpt.certificate/1"
    assert "another model" in (text := page.read_text(encoding="utf-8")) or "the same model" in text
    assert not plot or b"wte" in figure.read_bytes()


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ("weight_checks", ["Nothing differs, but 3 checks could not be made", "template     11 same",
                           "weights.other, predictions.kl, predictions.top"]),
        ("tensor_effects", ["up to the rounding of its types"]),
    ],
)  # fmt: skip
def test_ctrl_c_prints_the_checks_made_so_far(models, monkeypatch, default_signals, step, found):
    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys.modules[certify.__module__], step, interrupted)
    done = run(models, "other", "llama", "--by-tensor", *ONE)
    assert done.code == 130
    assert all(words in done.out for words in found)
    assert "interrupted" in done.lines[-1]


def test_ctrl_c_during_effects_keeps_the_finished_ones(models):
    texts = ["Hello, world!", "Why not?", "abc def"]

    def report(done, of):
        if (done, of) == (4, 6):  # the end of the second text
            raise KeyboardInterrupt

    part, one = (
        certify(models / "other", models / "llama", texts=own, by_tensor=True, report=stop)
        for own, stop in ((texts, report), (sorted(texts, key=len)[:1], unreported))
    )
    found, expected = ({effect.name: effect.kl for effect in own.tensors} for own in (part, one))
    print(found, expected)
    assert part.verdict == "same"
    assert found == expected


def test_the_text_before_the_largest_divergence_begins_with_a_whole_character(models):
    checks = certify(models / "other", models / "llama", texts=["éàèùéàèùéàèù"]).checks
    detail = next(check.detail for check in checks if check.id == "predictions.kl")
    print(detail)  # without the beginning of the text, as in "after “ùéàè”"
    assert detail.partition("after “")[2][0] in "éàèù"


@pytest.mark.parametrize("pair", [("other", "llama"), ("llama.gguf", "llama.gguf")])
def test_what_one_time_limit_leaves_unfinished_is_not_checked(models, monkeypatch, pair):
    """A folder has its tokenizer in a separate process, and a GGUF file in the process of the command."""
    monkeypatch.setattr(sys.modules[certify.__module__], "SECONDS", 0)
    made = certify(*(models / name for name in pair), by_tensor=True)
    late = {check.id: check.detail for check in made.checks if check.status == "not checked"}
    print(late)
    assert {*late} == {"vocabulary.encoding", "template.missing", *IDS}
    assert {*late.values()} == {"All tokenizers and chat templates together do not finish within 0 seconds"}
    assert (made.verdict, made.tensors) == ("incomplete", ())
