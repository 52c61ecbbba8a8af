"""Make wrong command lines from the options that the commands declare."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple, get_args, get_origin

from microgpt_trace.cli import COMMANDS

from .good_files import PLAIN, READERS
from .hostile_values import LONG, NUMBERS, TEXTS
from .promise import click_command

SITES = (
    "*", "layer*", "layer0.attn.head2@3:5", "layer*.attn.head*", "layer0.mlp.act@2:5", "layer0.attn.q[0,3]",
    "logits", "layer0.attn.weights[1]", "layer0.attn.scores[0,1,0]", "embed.tok", "embed.sum@-1",
    "layer1.attn.out@0:8", "wte", "wpe", "attn_out", "ffn_up", "layer9.mlp.act", "layer-1.mlp.act", "probs",
    "loss", "logits[-1,a]", "logits@1:e", "layer0.mlp.act@99999999999999999999", "layer0.mlp.act@1:99999",
    "layer0.mlp.act@-9", "q[3,0:8]",
    "[", "[]", "@", ":", "@3:5", "a@b:c", "layer0.mlp.act@@", "layer0.attn.head99", "layer0.attn.head-1",
    "layer0.mlp.act[0,0,0,0,0]", "layer0.mlp.act[5:1]", "layer0.mlp.act[::0]", "layer0.mlp.act[::-1]",
    "layer0.attn.weights", "d logits", "layer0.attn.residual", "layer{i}.mlp.act", "l" * 5000, "*" * 300,
    "[" * 300, "final.norm", "blk.0.attn_q.weight",
)  # fmt: skip
INPUTS = (
    *READERS, "missing", "missing.gguf", "", ".", "-", "..", "folder", "fifo", "loop", "dangling", "empty",
    "\udcff", "n" * 256, "n" * 5000, "m.gguf/x", "hf/config.json", "hf/model.safetensors", "/dev/null",
    "a" * 300 + ".gguf", "/proc/self/mem", "hf/", "./hf/../m.gguf", "aprt/manifest.json",
    "\x1b[8m", "[/]", "~", "locked",
)  # fmt: skip
OUTPUTS = (
    "new", "new.safetensors", "new.json", "newfolder", "new.jsonl", "-", "c.safetensors", "log.jsonl", "",
    ".", "-", "..", "folder", "folder/new", "missing/new", "fifo", "loop", "dangling", "empty", "m.gguf",
    "c.safetensors", "hf/new", "names.txt", "log.jsonl", "\udcff", "n" * 255, "n" * 256,
    "\x1b[8m", "[/]", "/dev/full", "/dev/null", "/proc/new", "m.gguf/x", "sub/../new", "aprt", "locked/new",
)  # fmt: skip
LISTS = (
    "1,5,5", "1", "0", "-1", "61", "1,99999", "", ",", "1,", "all", "last", "0,3,-1", "a", "1.5",
    "1,2147483648", "1e3", "9223372036854775808", "1" + "0" * 5000, "0," * 3000 + "0", "1-2", "0-0", "1-1",
    "3-1", "-", "0-99", "-1-1", "٣", "1_0", " 1", "nan", "0x1", "-3,-99", "0,0,0",
    "1,5,5,5,5,5,5,5,5,5,5,5,5,5,5,5,5",
)  # fmt: skip
KEYS = (
    "num_heads=4", "num_heads=0", "num_heads=-1", "num_heads=1e999", "num_heads=NaN", "rms_norm_eps=NaN",
    "x=1", "=", "a", "a=", "rope_theta=-1", "num_layers=9999999999", "hidden_size=" + "9" * 5000,
    "vocab_size=null",
    "num_heads=[", "rope_scaling={}", "rope_type=2", "architecture=[]", "head_dim=" + "[" * 3000, "\x1b=[/]",
    "rope_theta=1e-320",
)  # fmt: skip
LETTERS = ("*.attn.q=HTD", "*=TC", "*.scores=HTS", "logits=VT", "=", "a", "a=", "=TC", "*=X", "[=TC")
LETTERS += ("*.attn.q=THD",)
WORKS = {"--steps", "--count", "-n", "--generate"}  # a huge value is valid and takes forever
SIZES = {"--n-layer", "--n-embd", "--batch-size", "--block-size"}
TARGETS = {"--out", "--save", "--save-aprt", "--log", "--imatrix", "--html"}
BY_SITE = {"--layer", "--show", "--filter", "--event", "--sites", "--save-tensor"}
BY_SITE |= {"--ablate", "--ablate-mean"}
BY_NAME = {
    "--tokens": LISTS, "--positions": LISTS, "--position": LISTS, "--layers": LISTS, "--set": KEYS,
    "--layout": LETTERS, "--fail-on": ("anomaly", "x", ""),
}  # fmt: skip
SMALL = ("1", "2", "3", "4", "5", "8", "0", "-1", "", "a", "1.5", "nan", "1" + "0" * 5000)
FLOATS = ("0.5", "1", "2", "0", "1e-6", "0.1", "12", *NUMBERS, "nan", "inf", "-inf", "", "a", "1_0", "٣")
RIGHT = {
    "--map": ("map.toml",), "--prompts": ("prompts.txt",), "--pairs": ("pairs.txt",),
    "--data": ("names.txt",), "--resume": ("c.safetensors",),
    "--calibrate": ("q.gguf", "saved.safetensors", "sharded"),
    "--model": ("m.gguf", "hf", "c.safetensors", "w.safetensors"), "--target": ("a", "#5", "e"),
    "--patch": ("layer0.mlp.act=saved.safetensors", "layer0.mlp.act=micro.safetensors"),
    "--against": ("b", "#6"), "--add": ("layer1.attn.out=saved.safetensors", "layer0.attn.out=micro.json"),
    "--watch": ("ava",), "--field": ("text",), "--shard": ("1/2", "2/2", "1/1"), "--workers": ("0", "1"),
    "--plot": ("new.svg", "new.png", "attention:new.svg"),
}  # fmt: skip
# Options that fit few models, or that end the command early
SELDOM = {
    "--schema", "--set", "--rope-pairs", "--n-head", "--bos", "--seed", "--payload", "--reference", "--diff",
    "--save-tensor", "--weights", "--prompts", "--suggest-map", "--chat", "--backward", "--step",
    "--workers", "--scheduler", "--plot", "--html",
}  # fmt: skip
RISKY = {*SIZES, "--top-k", "--seed"}


class Option(NamedTuple):
    """An option of a command, in any version of Typer."""

    opts: tuple[str, ...]
    is_flag: bool
    kind: Any  # the type of its value: Path, int, a Literal ...


@cache
def options_of(name: str) -> tuple[Option, ...]:
    """Return the options of a command."""
    command = click_command(name).commands[name]
    return tuple(
        Option(tuple(param.opts), param.is_flag, command.kinds[param.name][0])
        for param in command.params
        if param.opts[0].startswith("-")
    )


def choose(rng: Random, pool: tuple[str, ...]) -> str:
    """Choose a value from a pool whose first quarter is plausible, and mostly from that quarter."""
    return rng.choice(pool[: max(len(pool) // 4, 3)] if rng.random() < 0.75 else pool)


def value_of(rng: Random, param: Option) -> str:
    """Choose a value for an option, plausible or hostile."""
    flag, kind = param.opts[0], param.kind
    if rng.random() < 0.05:
        return rng.choice(TEXTS)
    if flag in RIGHT and rng.random() < 0.5:
        return rng.choice(RIGHT[flag])
    if flag in BY_SITE:
        return choose(rng, SITES)
    if flag in BY_NAME:
        return choose(rng, BY_NAME[flag])
    if flag == "--scale":
        return f"{choose(rng, SITES)}={choose(rng, FLOATS)}"
    if flag in ("--patch", "--add"):
        return f"{choose(rng, SITES)}={choose(rng, INPUTS)}"
    if kind is Path:
        return choose(rng, OUTPUTS if flag in TARGETS else INPUTS)
    if get_origin(kind) is Literal:
        return rng.choice(get_args(kind))
    if kind is int:
        return choose(rng, SMALL if flag in WORKS | SIZES else (*SMALL, *NUMBERS))
    return choose(rng, FLOATS if kind is float else TEXTS)


def option(rng: Random, name: str) -> list[str]:
    """Choose an option of the command, with its value if it takes one."""
    param = rng.choice(options_of(name))
    if SELDOM & set(param.opts) and rng.random() < 0.8:
        param = rng.choice(options_of(name))
    flag = rng.choice(param.opts)
    return [flag] if param.is_flag else [flag, value_of(rng, param)]


def good_line(rng: Random) -> list[str]:
    """Choose a command line that works."""
    item = rng.choice([*READERS, *[""] * 8])
    lines = READERS[item] if item else PLAIN
    return [word.replace("FILE", item) for word in rng.choice(lines).split(" ")]


def command_line(rng: Random) -> list[str]:
    """Change a good command line: add options, or replace, delete or repeat words."""
    words = good_line(rng)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        at = rng.randrange(1, len(words) + 1)
        name = words[0] if words and words[0] in COMMANDS else rng.choice(list(COMMANDS))
        kind = rng.random()
        if kind < 0.75:
            words += option(rng, name)
        elif kind < 0.92 and at < len(words) and words[at - 1] not in WORKS | SIZES:
            words[at] = rng.choice(rng.choice((TEXTS, INPUTS, SITES, LISTS, OUTPUTS, NUMBERS)))
        elif kind < 0.96 and at < len(words) and words[at - 1] not in WORKS:
            del words[at]
        elif kind < 0.99:
            words.insert(at, rng.choice(words))
        else:
            words[0] = rng.choice(("", "tracee", "-h", "--version", "--", LONG, *COMMANDS))
    if words[0] == "train" and "--steps" not in words and "--resume" not in words:
        words += ["--steps", "3"]
    return words
