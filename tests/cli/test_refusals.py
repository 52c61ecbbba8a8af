"""Malformed requests: each prints one line with what was expected and found, and writes no file."""

import gzip
import json

import numpy as np
import pytest
from support.commands import microgpt, refusal, refused
from support.tiny_models import CASES, TOKENS, random_weights, write_folder

from microgpt_trace import load, trace
from microgpt_trace.dumps.stored_arrays import save_arrays


@pytest.fixture(scope="module")
def place(tmp_path_factory, compared_folders, checkpoints):
    """A microGPT, a decoder with a tokenizer and one without, dumps, pairs and texts."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "m.safetensors").symlink_to(checkpoints["trained"])
    (folder / "llama").symlink_to(compared_folders["llama_gqa"])
    write_folder(folder / "bare", CASES["llama_gqa"], random_weights(CASES["llama_gqa"], "llama_gqa"))
    run = trace(load(folder / "llama"), tokens=TOKENS, names=["*"], values=True)
    save_arrays(run, folder / "good.safetensors")
    (folder / "pairs").write_text("anna\talma\te\tk\n")
    (folder / "names.txt").write_text("emma\nolivia\n")
    (folder / "texts.txt").write_text("Ann ran\n")
    (folder / "text.txt").write_text("not numbers at all")
    (folder / "texts.jsonl.gz").write_bytes(gzip.compress(json.dumps({"said": "Ann"}).encode()))
    np.save(folder / "happy.npy", np.ones(16, np.float32))
    return folder


REFUSED = {
    # of a microGPT, and of commands that there are not
    "trace 'José'": "'é' … position 3 … a..z … 'jose'",
    "trace --model .": "found a folder",
    "trace --bogus": "--bogus",
    "trace emma extra": "extra",
    "trace --n-head 2": "--n-head … --model",
    "trace --json --jsonl": "--jsonl cannot be combined with --json",
    "trace --values": "--json",
    "trace --json --show logits": "--show",
    "trace --out no/such/place": "does not exist",
    "trace --out x --save ./x": "--save and --out both name",
    "trace --save x --save-aprt x": "--save and --save-aprt both name x",
    "trace --save-tensor all": "--save-aprt DIR or --save FILE … for all stages, --verbose",
    "trace --prompt hi": "--prompt: the text needs no option",
    "parity a.gguf": "parity: use `microgpt diff A B`",
    "tensors a.gguf": "tensors: use `microgpt inspect MODEL`",
    "tarce": "tarce",
    "gradcheck 'é'": "'é'",
    "train --steps 0": "--steps",
    "train --lr nan": "lr … nan",
    "train --n-head 3": "n_embd 16 … n_head 3",
    "train --data nope": "nope … no such file",
    "train --out .": "folder",
    "train --trace-every 5": "--log",
    "trace --seed 3 --model m.safetensors": "--seed … untrained",
    "inspect --stats": "--stats is for a production model",
    "sample": (
        "microgpt.safetensors: no such file in this folder; `microgpt train` writes this file in a second"
    ),
    "trace emma --model microgpt.safetensors": "no such file in this folder; `microgpt train` writes",
    # trace of a decoder
    "trace nope Hello": "nope: no such model for the text 'Hello'; quote a text of several words",
    "trace llama3.2:1b": "llama3.2:1b: no such model; expected a file or folder; a model of a hub must be",
    "trace llama3.2:1b Hello": "no such model for the text 'Hello'; expected a file or folder; a model of",
    "trace folder/nope.gguf Hello": "folder/nope.gguf: no such file",
    "trace --model nope.gguf Hello": "nope.gguf: no such file",
    "trace llama ''": "empty … no BOS",
    "trace llama --tokens 1,x": "--tokens … '1,x'",
    "trace llama --tokens ''": "--tokens",
    "trace llama --tokens 3,61": "token 61 … 0 to 60",
    "trace llama --tokens 3,-1": "token -1 … 0 to 60",
    "trace llama Hi --tokens 3": "--tokens",
    "trace llama --tokens 3 --chat": "--tokens … --chat",
    f"trace llama {'a' * 65}": "65 tokens … 64",
    "trace llama --layers 0-2": "--layers 0-2 … 0 to 1",
    "trace llama --layers 1-0": "--layers 1-0",
    "trace llama --layers '²'": "--layers … expected a list such as 3-5 or 0,7 … ²",
    "trace llama --layers 0,": "--layers … '0,'",
    "trace llama --layer loss --positions last": "last position has no loss",
    "trace llama --layers 0 --layer logits": "--layer  … --layers",
    "trace llama Hello --positions 5": "position 5 … 0 to 4",
    "trace llama --positions some": "--positions … 'some'",
    "trace llama --fail-on everything": "--fail-on … 'everything'",
    "trace llama --generate 0": "--generate",
    "trace llama --step": "--step is for a microGPT",
    "trace llama --backward --generate 2": "--backward cannot be combined with --generate",
    "trace llama --backward --against a": "--against needs --target",
    "trace llama --lens --target a --target b": "are for one target",
    "trace llama --backward --target a --target b --save x": "--save: expected one --target",
    "trace llama --target a --position 1 --lens": "--position needs --backward",
    "trace llama --n-head 4": "--n-head",
    "trace llama --bos last": "--bos",
    "trace llama --seed 1": "--seed is for an untrained model or for --temperature",
    "trace llama --seed 1 --generate 2": "or for --temperature",
    "trace llama --rope-pairs halves": "--rope-pairs",
    "trace llama --set num_heads=4": "--set",
    "trace llama --reference other.apr": "--reference … microgpt diff",
    # interventions
    "trace emma --scale logits=much": "--scale logits: expected a number, found 'much'",
    "trace emma --scale logits": "--scale: expected NAME=NUMBER, found 'logits'",
    "trace emma --patch logits=": "--patch: expected NAME=FILE",
    "trace emma --scale logits=2 --scale logits=3": "scaled twice",
    "trace emma --patch logits=none.safetensors": "none.safetensors",
    "trace emma --patch logits=text.txt": "text.txt: expected a dump",
    "trace emma --add logits=happy.npy": "expected logits of shape [5, 27] or [27], found [16]",
    "trace emma --patch logits=m.safetensors": "m.safetensors: ",
    # explain
    "explain": "expected an element",
    "explain 'layer0.attn.scores[1,3,2]' 'José'": "not in the vocabulary",
    "explain word 'layer0.attn.scores[1,3,2]'": "no such model",
    "explain 'layer0.attn.scores[1,3,2]' emma anna": "anna",
    "explain 'layer0.attn.scores[1,3,2]' --tokens 1,2": "for a production model",
    "explain 'layer0.attn.scores[1,3,2]' --set a=1": "--set",
    "explain m.safetensors emma 'probs[1,a]'": "the element comes before the text: 'probs[1,a]' emma",
    "explain small emma 'probs[1,a]'": "the element comes before the text: 'probs[1,a]' emma",
    "explain 'probs[1,a]' --backward --target a": "--target is for a production model",
    "explain bare 'logits[0,1]' --tokens 1,2 --target #1": "--target needs --backward: --target names",
    "explain bare 'logits[0,1]' --tokens 1,2 --backward --against #1": "--against needs --target",
    "explain bare 'logits[0,1]' --tokens 1,2 --backward --position 1": "--position needs --target",
    "explain bare 'probs[0,1]' --tokens 1,2 --backward --target #1": "logit(1) does not depend on probs",
    "explain bare 'ffn_up[1,2]' --tokens 1,2": "expected one event, found 2 for ffn_up",
    "explain bare 'logits[0,1]' text --tokens 1,2": "--tokens",
    "explain bare 'logits[0,1]' --tokens 1,99": "token 99",
    "explain bare 'logits[0,␣Paris]' --tokens 1,2": "#7042",
    "explain bare 'logits[0,1]' --tokens 1,2 --seed 3": "--seed",
    # attribute
    "attribute emma --target ab": "expected one character, BOS, EOS or an id",
    "attribute emma --position one": "--position: expected all, last or a list such as 0,3,-1, found 'one'",
    "attribute emma --tokens 1,2": "--tokens is for a production model",
    "attribute 'é'": "character",
    # patch
    "patch": "expected [MODEL] CLEAN CORRUPT, found 0 arguments",
    "patch emma": "found 1 argument",
    "patch m.safetensors emma emmy anna": "found 4 arguments",
    "patch nothing emma emmy": "nothing: no such model for the text 'emma'",
    "patch m.safetensors emma emmy --model m.safetensors": "expected one model, found m.safetensors too",
    "patch m.safetensors emma emmy --seed 3": "--seed",
    "patch emma emmy --sender embed.tok": "--sender needs --receiver: a path leads to a receiver",
    "patch emma emmy --receiver logits": "--receiver needs --sender",
    "patch emma emmy --sender embed.tok --receiver logits --sites *": "--sender cannot be combined with",
    "patch emma emmy --sender *.attn.head1 --receiver layer0.attn.q": "does not come after *.attn.head1",
    "patch --pairs m.safetensors": "expected UTF-8",
    "patch --pairs pairs nothing": "nothing: no such file",
    "patch --pairs pairs anna alma": "expected at most a model with --pairs",
    # diff
    "diff llama": "expected two runs",
    "diff llama good.safetensors --compute int4": "--compute",
    "diff llama good.safetensors --layout x": "--layout … GLOB=LETTERS",
    "diff llama good.safetensors --map missing.toml": "missing.toml",
    "diff llama good.safetensors --weights": "--weights compares two models",
    "diff llama good.safetensors --prompts missing.txt": "--prompts compares two models",
    "diff m.safetensors m.safetensors --weights --compute q8": "--compute cannot be combined with --weights",
    "diff m.safetensors m.safetensors --suggest-map": "one of each",
    "diff good.safetensors good.safetensors 'a text'": "only a model can read a text",
    "diff good.safetensors m.safetensors --model m.safetensors": "--model judges two dumps",
    "diff good.safetensors good.safetensors --model good.safetensors": "expected a model, found",
    "diff good.safetensors good.safetensors --padding top": "expected the side and the number of rows",
    "diff m.safetensors m.safetensors --batch 1": "--batch is for a dump, and neither side is a dump",
    # diagnose
    "diagnose good.safetensors": "expected a dump and a model",
    "diagnose llama good.safetensors": "expected a dump, found a decoder model",
    "diagnose good.safetensors good.safetensors": "expected a model",
    "diagnose nothing llama": "nothing",
    "diagnose good.safetensors llama --tokens 1,2": "tokens",
    "diagnose good.safetensors llama --layout layer0.attn.q=XY": "XY",
    # survey
    "survey llama": "llama needs a corpus",
    "survey --top 100000000000": "--top: expected 0 to 10,000, found 100000000000",
    "survey m.safetensors --max-tokens 5": "--max-tokens is for a production model",
    "survey m.safetensors --chat": "--chat is for a production model",
    "survey --seed 3 m.safetensors": "--seed is for an untrained model or for --sample, not for",
    "survey m.safetensors names.txt --imatrix x.gguf": "an importance matrix needs a production model",
    "survey llama texts.txt --events logits --imatrix x.gguf": "its input layer0.attn.norm is not measured",
    "survey llama texts.txt --events 'layer0.attn.*' --top 1": "--top: expected --events to include units",
    "survey llama texts.txt --events nothing": "'nothing' matches no event",
    "survey llama texts.jsonl.gz": "texts.jsonl.gz:1: ",
    "survey names.txt --imatrix-output": "--imatrix-output needs --imatrix: --imatrix names",
    "survey llama texts.txt --out texts.txt --force": "expected a survey, which may be overwritten",
    "survey llama texts.txt --imatrix texts.txt --force": "expected an importance matrix, which may be",
    "survey llama texts.txt --out x.gguf --imatrix ./x.gguf": "--out and --imatrix both name",
    "survey llama texts.txt --shard 0/3": "--shard: expected I/N with I from 1 to N",
    "survey llama texts.txt --shard 4/3": "--shard: expected I/N with I from 1 to N",
    f"survey llama texts.txt --shard 1/{'9' * 5000}": "--shard: expected I/N with I from 1 to N",
    "survey llama texts.txt --resume": "--resume needs --out: --out names the survey to continue",
    "survey --limit 2 --sample 3": "--limit and --sample cannot be combined: give only one",
    "survey --workers 2 --scheduler a": "--workers and --scheduler cannot be combined: give only one",
    "survey llama texts.txt --out x --resume --force": "--force cannot be combined with --resume",
    # options that would change nothing
    "trace --force": "--force needs --save or --out or --html or --plot: --force allows overwriting",
    "trace --force --save-aprt new": "--force needs --save or --out or --html or --plot",
    "trace --validate --seed 1 --temperature 0": "--temperature cannot be combined with --validate",
    "trace --validate --json --verbose": "--verbose cannot be combined with --validate and --json",
    "trace --validate --ablate logits": "--ablate cannot be combined with --validate",
    "trace llama ab --chat --special": "--special cannot be combined with --chat",
    "trace llama ab --temperature 0": "--temperature needs --generate",
    "diff llama llama --json --verbose": "--verbose cannot be combined with --json",
    "diff llama llama --weights --factor 0": "--factor cannot be combined with --weights",
    "diff llama llama --suggest-map --rtol 0": "--rtol cannot be combined with --suggest-map",
    "diff llama llama --weights --atol 0": "--atol cannot be combined with --weights",
    "diff llama llama '' --weights": "a text cannot be combined with --weights",
    "diff llama llama --weights --suggest-map": "--suggest-map cannot be combined with --weights",
    "diagnose llama llama --json --verbose": "--verbose cannot be combined with --json",
    "attribute emma --json --top 1": "--top cannot be combined with --json",
    # values of a kind
    "trace --temperature nan": "--temperature: expected a number of at least 0, found 'nan'",
    "trace --temperature=hot": "--temperature: expected a number of at least 0, found 'hot'",
    "trace --seed 1.5": "--seed: expected a whole number of at least 0, found '1.5'",
    "trace --top-k 0": "--top-k: expected a whole number of at least 1, found '0'",
    "trace --bos middle": "--bos: expected first or last, found 'middle'",
    "patch a b --position here": "--position: expected a whole number, found 'here'",
    "sample -n 0": "--count: expected a whole number of at least 1, found '0'",
    "train --lr fast": "--lr: expected a number, found 'fast'",
    "train --autosave nan": "--autosave: expected a number … 'nan'",
    "train --vocab x": "--vocab: expected a-z or data, found 'x'",
}


@pytest.mark.parametrize("command", sorted({line.split()[0] for line in REFUSED}))
def test_refuses_a_malformed_request_in_one_line(place, command):
    before = {path.name for path in place.iterdir()}
    for line in (line for line in REFUSED if line.split()[0] == command):
        print(line)
        refused(microgpt(line, cwd=place), *REFUSED[line].split(" … "))
    assert {path.name for path in place.iterdir()} == before


MISSING = (
    "inspect {}", "sample --model {}", "trace emma --model {}", "gradcheck --model {}", "train --resume {}",
    "diff {} {}", "diagnose {} {}", "explain 'logits[0,a]' emma --model {}", "attribute emma --model {}",
    "patch emma emmy --model {}",
)  # fmt: skip


@pytest.mark.parametrize("name", ["none.safetensors", "none.gguf", "a none.apr"])
def test_says_that_a_file_does_not_exist(tmp_path, name):
    for line in MISSING:
        assert refusal(line.format(f"'{name}'", f"'{name}'"), cwd=tmp_path) == f"{name}: no such file"
