"""Hostile text from files, through every command: a terminal gets only harmless text."""

import json

import numpy as np
import pytest
from support.apr_files import METADATA as APR
from support.apr_files import apr_bytes
from support.apr_files import tiny_model as apr_model
from support.aprt_folders import write_raw_aprt
from support.commands import microgpt
from support.dump_writing import write_folder, write_npz, write_safetensors
from support.gguf_files import gguf_bytes
from support.sweeps import some_of
from support.terminal import BAR, EVIL, controls
from support.tiny_models import tiny_model, write_gguf
from support.tiny_tokenizer import TINY_TOKENS

from microgpt_trace import Config, MicrogptError, Tokenizer, init, load, save, trace
from microgpt_trace.microgpt.documents import Documents
from microgpt_trace.microgpt.model import Schedule
from microgpt_trace.microgpt.training import Trainer
from microgpt_trace.naming.map_writing import quoted as _quoted
from microgpt_trace.naming.user_map import read_map
from microgpt_trace.readers.gguf import read_gguf_header
from microgpt_trace.text.printable import LONGEST, as_message, in_lines, on_one_line

pytest.importorskip("gguf", reason="the right files to be changed are written by the package gguf")

NAME = EVIL.replace("/", "|")  # for files


def check(done, terminal):
    """Fail if the output has anything that a terminal would obey."""
    for text in (done.out, done.err):
        bad = controls(text, terminal)
        assert not bad, (bad, text[:2000])
    if done.code == 2:
        assert len(done.lines) == 1, done.err


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def terminal(request, monkeypatch):
    if request.param:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLORTERM", "truecolor")  # rich keeps what a style was first written as
    return request.param


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """Metadata, tokens, the template and the file's name are hostile."""
    folder = tmp_path_factory.mktemp("gguf")
    whole = read_gguf_header(write_gguf(folder / "whole.gguf", *tiny_model("llama_gqa")))
    size = whole.metadata["llama.vocab_size"]
    tokens = [*TINY_TOKENS, *(f"{EVIL}{i}" for i in range(size))][:size]
    tokens[5] = EVIL
    added = {
        "general.name": EVIL, EVIL: EVIL, "[/]": "[/]", "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": [],
        "tokenizer.ggml.token_type": [1] * size,
        "tokenizer.chat_template": EVIL + "{{ messages[0].content }}",
    }  # fmt: skip
    path = folder / f"{NAME}.gguf"
    path.write_bytes(gguf_bytes(whole.metadata | added, whole.tensors))
    return path


@pytest.fixture(scope="module")
def wrong_gguf(gguf):
    """Refused for its pre-tokenizer, for its architecture, and for a tensor's name."""
    whole = read_gguf_header(gguf)
    first, *others = whole.tensors
    changes = [
        ({"tokenizer.ggml.pre": EVIL}, whole.tensors),
        ({"general.architecture": EVIL}, whole.tensors),
        ({}, [type(first)(EVIL, first.encoding, first.shape, first.data), *others]),
    ]
    paths = [gguf.with_name(f"{number}{NAME}.gguf") for number in range(len(changes))]
    for path, (change, tensors) in zip(paths, changes, strict=True):
        path.write_bytes(gguf_bytes(whole.metadata | change, tensors))
    return paths


@pytest.fixture(scope="module")
def folders(decoder_folder):
    """Hugging Face folders: hostile tokens and template, then what is refused."""
    changes = [  # of tokenizer.json and of tokenizer_config.json
        ({}, {}), ({"model": {"type": EVIL}}, {}), ({"post_processor": {"type": EVIL}}, {}),
        ({}, {"add_bos_token": EVIL}), ({}, {"bos_token": EVIL + "?"}),
    ]  # fmt: skip
    found = []
    for of_tokenizer, of_config in changes:
        folder = decoder_folder("llama_gqa", template=EVIL + "{{ messages[0].content }}", model_name=EVIL)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        vocab = {EVIL if i == 5 else token: i for token, i in tokenizer["model"]["vocab"].items()}
        model = tokenizer["model"] | {"vocab": vocab} | of_tokenizer.get("model", {})
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer | of_tokenizer | {"model": model}))
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | of_config))
        found.append(folder)
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Hostile characters in the vocabulary, the data and the file's name; the log beside it too."""
    chars = "".join(dict.fromkeys(EVIL + "emav"))
    tokenizer = Tokenizer(chars)
    model = init(Config(vocab_size=tokenizer.vocab_size), tokenizer=tokenizer)
    trainer = Trainer(model, Documents(["emma", "ava", "em", EVIL[:9]]), Schedule(4))
    for _ in trainer.run():
        break
    path = tmp_path_factory.mktemp("trained") / f"{NAME}.safetensors"
    state = trainer.model("evil")
    object.__setattr__(state.training, "data", EVIL)
    save(state, path)
    return path


MODEL_COMMANDS = [
    "trace MODEL e", "trace MODEL e -v --show wte --show logits", "trace MODEL e --json", "inspect MODEL",
    "trace MODEL --tokens 1,5,5 --generate 3 --lens", "trace MODEL e --chat", "trace MODEL nobody\x1b\u202e",
    "inspect MODEL --metadata --stats", "inspect MODEL --metadata --json", "diff MODEL MODEL --tokens 1,5,5",
    "diff MODEL MODEL --weights", "explain logits[-1,5] MODEL e", "attribute MODEL e", "patch MODEL e a",
    "trace MODEL e --validate", "trace MODEL e --ablate layer0.mlp.act --save OUT", "sample --model MODEL",
    "gradcheck --model MODEL e", "train --resume MODEL --steps 4", "trace MODEL \x1b]52;c;\x07[/]",
    "patch MODEL e a --target \x1b[/]", "trace MODEL e --layer \x9b[/]", "explain \x1b[/] MODEL e",
    "timeline MODEL", "diagnose MODEL MODEL e", "trace MODEL --set x=\x1b[/]", "trace \x1b[/].gguf e",
]  # fmt: skip


def words(command, model, out):
    return [{"MODEL": str(model), "OUT": str(out)}.get(word, word) for word in command.split(" ")]


@pytest.mark.parametrize("command", some_of(MODEL_COMMANDS, every=5))
def test_models(command, gguf, folders, checkpoint, terminal, tmp_path):
    codes = []
    for number, model in enumerate((gguf, folders[0], checkpoint)):
        done = microgpt(*words(command, model, tmp_path / f"{number}{NAME}"))
        check(done, terminal)
        codes.append(done.code)
    print(codes)


def test_messages_of_the_library_are_printable(wrong_gguf, folders, gguf, checkpoint, tmp_path):
    """A command that refuses a model prints the same message."""
    tensors = apr_model()[0]
    wrong, strange, junk = (tmp_path / f"{NAME}.{kind}" for kind in ("apr", "2.apr", "safetensors"))
    wrong.write_bytes(apr_bytes(APR | {"architecture": EVIL, EVIL: EVIL}, tensors))
    strange.write_bytes(apr_bytes(APR | {EVIL: EVIL}, tensors | {EVIL: tensors["lm_head.weight"]}))
    junk.write_bytes(EVIL.encode())
    refused = (*wrong_gguf, *folders[1:], wrong, strange, junk, tmp_path / NAME)
    said, described = [], []
    for model in (*refused, folders[0], gguf, checkpoint):
        try:
            opened = load(model)
            vocabulary = getattr(opened, "vocabulary", None) or opened.tokenizer
            described += [*opened.assumed, vocabulary.describe()]
            trace(opened, EVIL)
        except MicrogptError as error:
            said.append(str(error))
    print(said, described)
    assert (len(said), len(described) > 3) == (len(refused) + 3, True)
    assert not [text for text in (*said, *described) if not text.isprintable()]


def hostile_dumps(base):
    arrays = {f"{NAME}{i}": np.ones((3, 4), np.float32) for i in range(2)} | {f"q{NAME}": np.ones(3, int)}
    yield write_folder(base / NAME, arrays)
    yield write_npz(base / f"{NAME}.npz", {name.replace("\x00", ""): array for name, array in arrays.items()})
    yield write_safetensors(base / f"{NAME}.safetensors", arrays, {"format": EVIL, "notes": f'["{NAME!r}"]'})
    document = {"model": {"origin": EVIL}, "input": {"text": EVIL}, "events": [{"name": EVIL}]}
    (base / f"{NAME}.json").write_text(json.dumps({"schema": "microgpt.trace/1"} | document))
    yield base / f"{NAME}.json"
    yield write_raw_aprt(base / f"aprt{NAME}", **{f"layer0__ffn_up{NAME}": [1.0, 2.0]})


def test_dumps_maps_and_lists(gguf, checkpoint, terminal, tmp_path):
    toml = tmp_path / f"{NAME}.toml"
    toml.write_text('[events]\n"layer{i}.mlp.up" = "\\u001b[/]{i}"\n"\\u202e[/]" = "\\u009b"\n')
    lines = tmp_path / f"{NAME}.txt"
    lines.write_text(f"{EVIL}\n{EVIL}\t{EVIL}\n[{EVIL}\n")
    for dump in hostile_dumps(tmp_path):
        for model in (gguf, checkpoint):
            for options in ([], ["--map", toml], ["--suggest-map", "--tokens", "1,5,5"], ["--layout", EVIL]):
                check(microgpt("diff", model, dump, *options), terminal)
            check(microgpt("diagnose", dump, model, "--tokens", "1,5,5"), terminal)
            check(microgpt("trace", model, "e", "--patch", f"{EVIL}={dump}"), terminal)
            check(microgpt("trace", model, "e", "--add", f"layer0.mlp.act={dump}"), terminal)
        check(microgpt("diff", dump, dump), terminal)
    for command in ("patch MODEL --pairs LINES", "diff MODEL MODEL --prompts LINES", "timeline LINES"):
        filled = [str(lines) if word == "LINES" else word for word in words(command, checkpoint, "")]
        check(microgpt(*filled), terminal)


def test_training(checkpoint, terminal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / f"{NAME}.txt"
    parts = ("\x1b[8m", "\x9b2K", "\u202ea", "Ä")
    data.write_text("".join(f"{part}\nemma\n{EVIL}{part}\n" for part in parts))
    command = ["train", "--steps", "6", "--data", data, "--log", f"{NAME}.jsonl", "--trace-every", "3"]
    done = microgpt(*command, "--vocab", "data", "--out", f"{NAME}.st", "--watch", "\u202ea")
    done = done._replace(err=BAR.sub("", done.err)) if terminal else done
    check(done, terminal)
    assert done.code == 0, done.err
    check(microgpt(*command), terminal)
    paths = {"LOG": f"{NAME}.jsonl", "CP": f"{NAME}.st"}
    for command in ("timeline LOG", "timeline LOG --json", "sample --model CP -n 40", "inspect CP"):
        done = microgpt(*(paths.get(word, word) for word in command.split()))
        check(done, terminal)
        assert done.code == 0, done.err


def test_a_drafted_map_reads_back_hostile_names(gguf, tmp_path):
    names = [EVIL, "\U000e0041", "\x9b", "plain", "√"]
    path = tmp_path / "map.toml"
    path.write_text("[events]\n" + "".join(f"logits = {_quoted(name)}\n" for name in names[:1]))
    assert read_map(path).entries[0].source == EVIL
    assert all(_quoted(name).isprintable() for name in names)


def test_escapes_characters_that_are_not_printable():
    for text in ("", "plain √ ␣", "a\tb", EVIL, "\udcff", "\U000e0041", "\u00ad"):
        assert on_one_line(text).isprintable()
        assert on_one_line(on_one_line(text)) == on_one_line(text)
        assert in_lines(f"{text}\n{text}").count("\n") == 2 * text.count("\n") + 1
        assert (on_one_line(text) == text) == text.isprintable()


def test_shortens_long_messages():
    longest = "x" * LONGEST
    assert as_message(longest) == longest
    assert as_message(longest + "x").startswith("x" * (LONGEST // 2) + " ... (1 characters left out) ... ")
    said = as_message("found " + "x" * 10**6 + " where a number was expected")
    assert len(said) < LONGEST + 60
    assert said.startswith("found xxx")
    assert said.endswith("where a number was expected")
