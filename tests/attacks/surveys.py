"""Survey random corpora with random models and options, and judge the results by loops over traces.

A survey must end with exit code 0, or 2 and one line. A survey in shards, by workers, or resumed after Ctrl-C
must write the same bytes as a survey in one process.

    PYTHONPATH=tests python -m attacks.surveys --count 300 --seed 1
    PYTHONPATH=tests python -m attacks.surveys --seed 1 --only 17
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import signal
import string
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support.tiny_gpt2 import gpt2_config, gpt2_shapes
from support.tiny_models import random_weights, rope_5, tiny_config, write_folder
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import Config, Model, Tokenizer, init, load, save, trace
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.parameters import Parameters

from .promise import run_command

ROOT = Path(__file__).parents[2]
OUT, WHOLE, JUDGED = "a.survey.safetensors", "whole.survey.safetensors", 130
ALPHABETS = ("abcdefgh ", string.ascii_letters + " .,!?'", "aé日😀\u202e\u0301 ", "a")
TEMPLATE = "{{ messages[0]['content'] }}"
EVENTS = ("*.mlp.*", "*.attn.weights", "*.residual", "embed.*", "logits", "layer0.*", "nothing")


@dataclass
class Case:
    """A model, a corpus and options in a folder. `texts` are the texts of the corpus that are not blank."""

    folder: Path
    model: str
    corpus: str
    texts: list[str]
    options: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        return ["survey", self.model, self.corpus, *self.options]


def case_of(seed: int, number: int, folder: Path) -> tuple[Case, random.Random]:
    """Write the model and the corpus of a case. The same seed and number make the same case."""
    rng = random.Random(f"{seed} {number}")
    small, letters = rng.random() < 0.4, rng.choice(ALPHABETS)
    model = write_microgpt(rng, folder, letters) if small else write_decoder(rng, folder)
    corpus, texts = write_corpus(rng, folder, letters, 16 if small else 64)
    case = Case(folder, model, corpus, texts)
    case.options = [word for words in options_of(rng, small) for word in words]
    return case, rng


def write_microgpt(rng: random.Random, folder: Path, letters: str) -> str:
    """Write a microGPT of random size. Some have NaN or infinite weights."""
    tokenizer = Tokenizer("".join(sorted({*letters})), bos=rng.choice(("first", "last")))
    heads = rng.randint(1, 4)
    config = Config(
        vocab_size=tokenizer.vocab_size, n_embd=heads * rng.randint(1, 6), n_head=heads,
        n_layer=rng.randint(1, 4), block_size=rng.choice((2, 5, 9, 16)), n_inner=rng.randint(1, 40),
    )  # fmt: skip
    model = Model(Parameters.random(config, rng.randrange(100), np.float32), tokenizer, "random")
    model.params.flat *= rng.choice((0.0, 1.0, 1.0, 20.0))
    if rng.random() < 0.1:
        model.params.flat[rng.randrange(model.params.flat.size)] = rng.choice((np.nan, np.inf))
    save(model if rng.random() < 0.9 else init(), folder / "m.safetensors")
    return "m.safetensors"


def write_decoder(rng: random.Random, folder: Path) -> str:
    """Write a production model of random size with random weights."""
    groups, shared, layers, name = rng.randint(1, 3), rng.randint(1, 2), rng.randint(1, 4), str(rng.random())
    sizes = {"vocab_size": 61} | {"bos_token_id": rng.choice((None, 1)), "eos_token_id": 2}
    dim, inner, context = 2 * rng.randint(1, 5), rng.randint(1, 48), rng.choice((8, 16, 64))
    if rng.random() < 0.2:
        config = gpt2_config(**sizes, n_positions=context, n_embd=groups * dim, n_head=groups, n_layer=layers)
        make = np.random.default_rng(rng.randrange(1000)).standard_normal
        weights = {key: make(shape).astype(np.float32) for key, shape in gpt2_shapes(config).items()}
    else:
        kind = rng.choice(("llama", "qwen2", "qwen3", "mistral"))
        config = tiny_config(
            kind, **sizes, hidden_size=rng.choice((4, 8, 20)), intermediate_size=inner, head_dim=dim,
            num_hidden_layers=layers, num_attention_heads=groups * shared, num_key_value_heads=groups,
            max_position_embeddings=context, tie_word_embeddings=rng.random() < 0.5, **rope_5(),
        )  # fmt: skip
        if kind == "qwen2":
            config["hidden_size"] = groups * shared * dim
        if kind == "mistral":
            config["sliding_window"] = rng.choice((None, 1, 3))
        weights = random_weights(config, name)
    if rng.random() < 0.1:
        weights[rng.choice([*weights])].flat[0] = rng.choice((np.nan, np.inf))
    write_tokenizer(write_folder(folder / "m", config, weights), template=TEMPLATE)
    return "m"


def write_corpus(rng: random.Random, folder: Path, letters: str, context: int) -> tuple[str, list[str]]:
    """Write a corpus, and return its name and the texts that are not blank."""

    def text(longest: int, letters: str) -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randint(1, longest)))

    kind = rng.choice(("short", "short", "blank", "long", "same", "few", "mixed"))
    count = rng.randint(1, 4) if kind == "few" else rng.choice((20, 120, 400))
    texts = [text(2 * context if kind == "long" else 6, letters) for _ in range(count)]
    if kind == "same":
        texts = texts[:1] * count
    if kind == "mixed":
        texts = [text(rng.choice((3, context)), rng.choice(ALPHABETS)) for _ in range(count)]
    if kind == "blank":
        texts = [rng.choice(("", " ", own)) for own in texts]
    name = rng.choice(("c.txt", "c.jsonl", "c.txt.gz"))
    lines = [json.dumps({"text": own}) for own in texts] if name == "c.jsonl" else texts
    content = "".join(f"{line}\n" for line in lines).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return name, [own for own in texts if own.strip()]


def options_of(rng: random.Random, small: bool) -> Iterator[list[str]]:
    """Yield some options with their values."""
    choices: list[list[str]] = [
        rng.choice([["--limit", str(rng.choice((1, 7, 100)))],
                    ["--sample", str(rng.choice((1, 30))), "--seed", str(rng.randrange(9))]]),
        ["--histograms", rng.choice(EVENTS[:-1])], ["--verbose"],
        *([] if small else [["--max-tokens", str(rng.choice((1, 2, 9)))], ["--chat"]]),
    ]  # fmt: skip
    yield from (words for words in choices if rng.random() < 0.15)
    if rng.random() < 0.2:
        yield ["--events", rng.choice(EVENTS)]
    elif rng.random() < 0.3:
        yield ["--top", str(rng.choice((1, 3, 10, 30)))]


# --- The ways to survey a corpus -----------------------------------------------------------------


def run(case: Case, *words: str) -> tuple[int | None, str, list[str]]:
    """Run a survey in this process. Return the exit code, the standard output and the broken promises."""
    ended = run_command([*case.words, *words], case.folder, environment={}, seconds=60.0)
    return ended.code, ended.out, ended.broken


def process(case: Case, *words: str, interrupt: float | None = None) -> tuple[int, str]:
    """Run a survey in its own process, perhaps with a Ctrl-C after some seconds."""
    started = subprocess.Popen(
        [sys.executable, "-m", "microgpt_trace", *case.words, *words], cwd=case.folder, encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        _, stderr = started.communicate(timeout=interrupt)
    except subprocess.TimeoutExpired:
        started.send_signal(signal.SIGINT)
        _, stderr = started.communicate(timeout=60)
    return started.returncode, stderr


def in_shards(case: Case, rng: random.Random) -> Iterator[str]:
    count = rng.randint(2, 4)
    files = [f"{part}.survey.safetensors" for part in range(1, count + 1)]
    for part, file in enumerate(files, 1):
        code, _, broken = run(case, "--shard", f"{part}/{count}", "--out", file)
        yield from broken or ([] if code == 0 else [f"shard {part}/{count}: exit code {code}"])
    ended = run_command(["survey", *files, "--out", OUT], case.folder, environment={})
    yield from ended.broken or ([] if ended.code == 0 else [f"merging: exit code {ended.code}: {ended.err}"])


def by_workers(case: Case, rng: random.Random) -> Iterator[str]:
    code, stderr = process(case, "--workers", str(rng.randint(1, 2)), "--out", OUT)
    if code:
        yield f"workers: exit code {code}: {stderr}"


def resumed_shard(case: Case, rng: random.Random) -> Iterator[str]:
    for words in (["--shard", f"{rng.randint(1, 2)}/2", "--out", OUT], ["--resume", "--out", OUT]):
        code, _, broken = run(case, *words)
        yield from broken or ([] if code == 0 else [f"{words}: exit code {code}"])


def after_interruption(case: Case, rng: random.Random) -> Iterator[str]:
    process(case, "--out", OUT, interrupt=rng.uniform(0.3, 1.5))
    code, stderr = process(case, "--out", OUT, "--resume")
    if code:
        yield f"resumed: exit code {code}: {stderr}"


WAYS: dict[Callable[[Case, random.Random], Iterator[str]], int] = {
    in_shards: 4, by_workers: 1, resumed_shard: 3, after_interruption: 1,
}  # fmt: skip


def problems(case: Case, rng: random.Random) -> tuple[str, list[str]]:
    """Run a survey in one process, judge its report, and survey in another way. Return how the surveys ended
    and the problems."""
    code, out, broken = run(case, "--json", "--out", WHOLE)
    if broken or code:
        return f"exit code {code}", broken or [f"exit code {code}"] * (code not in (0, 2))
    (way,) = rng.choices([*WAYS], [*WAYS.values()])
    found = [*judged(case, json.loads(out), rng), *way(case, rng)]
    files = [case.folder / name for name in (OUT, WHOLE)]
    if not found and files[0].read_bytes() != files[1].read_bytes():
        found.append("the bytes differ from those of a survey in one process")
    return way.__name__.replace("_", " "), found


# --- An independent judge: plain loops over traces -----------------------------------------------


def judged(case: Case, report: dict[str, Any], rng: random.Random) -> Iterator[str]:
    """Compare the report with traces of all texts, if the options select texts that a trace can read."""
    unlike = {"--sample", "--max-tokens", "--chat"} & {*case.options}
    limit = int(case.options[case.options.index("--limit") + 1]) if "--limit" in case.options else None
    texts = case.texts[:limit]
    if unlike or len(texts) > JUDGED:
        return
    model, runs = load(case.folder / case.model), {}
    for number, text in enumerate(texts):
        try:
            runs[number] = trace(model, text, names=["*"], values=True)
        except InputError:
            continue
    tokens = sum(len(one.input.tokens) for one in runs.values())
    yield from differing("texts, tokens", [report["texts"], report["tokens"]], [len(runs), tokens])
    for event in rng.sample(report["events"], min(3, len(report["events"]))):
        values = np.concatenate([columns(one[event["name"]]) for one in runs.values()]).astype(float)
        finite = values[np.isfinite(values)]
        yield from differing(event["name"], [event["count"], event["nonfinite"]],
                             [finite.size, values.size - finite.size])  # fmt: skip
        if finite.size:
            keys, own = ("least", "largest", "mean"), (finite.min(), finite.max(), finite.mean())
            yield from differing(event["name"], [event[key] for key in keys], own, np.abs(finite).max())
    for unit in rng.sample(report["units"], min(3, len(report["units"]))):
        every = [value for one in runs.values() for value in one[unit["event"]][:, unit["unit"]].tolist()]
        best = sorted((value for value in every if 0 < value < np.inf), reverse=True)
        most = int(case.options[case.options.index("--top") + 1])
        yield from differing(f"{unit['event']} {unit['unit']}", [at["value"] for at in unit["examples"]],
                             best[:most], best[0])  # fmt: skip
        for at in unit["examples"]:
            own = runs[at["document"]][unit["event"]][at["position"], unit["unit"]]
            yield from differing(f"{unit['event']} {at}", [at["value"]], [own], best[0])
    for head in rng.sample(report["looks"], min(2, len(report["looks"]))):
        (window,) = {same["window"] for same in report["heads"] if same["event"] == head["event"]}
        every = [*peaks([one[head["event"]] for one in runs.values()], head["head"], window)]
        own = sorted((peak for peak in every if peak > 0), reverse=True)[:10]
        yield from differing(f"{head['event']} {head['head']}",
                             [at["times_even"] for at in head["examples"]], own, 1.0)  # fmt: skip


def columns(value: np.ndarray) -> np.ndarray:
    """Return all elements of rows, or the elements of heads that the queries see."""
    return value.ravel() if value.ndim == 2 else value[:, np.tri(value.shape[-1], dtype=bool)].ravel()


def peaks(heads: Sequence[np.ndarray], number: int, window: int | None) -> Iterator[float]:
    """Yield the largest multiple of even attention on keys after position 0, for each text."""
    for weights in heads:
        if np.isfinite(weights).all():
            seen = np.minimum(np.arange(weights.shape[1]) + 1, window or np.inf)
            yield (weights[number, :, 1:].astype(float) * seen[:, None]).max(initial=0.0)


def differing(what: str, got: Sequence[float], own: Sequence[float], scale: float = 0.0) -> Iterator[str]:
    """Yield a problem if two lists differ by more than rounding explains. A scale of 0 demands equality."""
    if len(got) != len(own) or not np.allclose(got, own, rtol=0, atol=2e-3 * scale):
        yield f"{what}: the report has {[*got]}, the traces {[*own]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="make only the survey with this number")
    given = parser.parse_args()
    ends, broken = Counter[str](), 0
    for number in range(given.count) if given.only is None else [given.only]:
        with tempfile.TemporaryDirectory() as folder:
            case, rng = case_of(given.seed, number, Path(folder))
            end, found = problems(case, rng)
            ends[end] += 1
            if found:
                broken += 1
                again = f"--seed {given.seed} --only {number}: {' '.join(case.words)}"
                print(again, *found, sep="\n", flush=True)
    for end, count in sorted(ends.items()):
        print(f"{count} surveys: {end}")
    print(f"{ends.total()} surveys, {broken} broken promises")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
