"""Small valid files of every format that the tool reads, and the commands that read each of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from support.apr_files import METADATA, apr_bytes
from support.apr_files import tiny_model as apr_model
from support.commands import microgpt
from support.corpora import corpus_bytes
from support.gguf_files import gguf_bytes
from support.tiny_models import CASES, random_quantised_weights, random_weights, write_folder, write_gguf
from support.tiny_tokenizer import TINY_TOKENS, write_tokenizer

from microgpt_trace import init, save
from microgpt_trace.microgpt.documents import Documents
from microgpt_trace.microgpt.model import Schedule
from microgpt_trace.microgpt.training import Trainer
from microgpt_trace.readers.gguf import read_gguf_header
from microgpt_trace.timeline.log_writing import TrainingLog

from .formats.torch_files import of_arrays

TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m.content }}{% endfor %}"
VIEWS = (
    "trace FILE READ", "trace FILE READ -v --json --values", "trace FILE READ --jsonl",
    "trace FILE READ --validate", "trace FILE READ --save new.safetensors -v",
    "attribute FILE READ --target TOKEN", "attribute FILE READ --target TOKEN --json",
    "explain FILE logits[-1,TOKEN] READ", "inspect FILE --json",
    "explain FILE layer0.attn.scores[0,1,0] READ --json", "inspect FILE", "diff FILE FILE --weights",
    "trace FILE READ --ablate layer0.mlp.act --scale layer0.attn.head1=2",
)  # fmt: skip
DECODER = (
    *VIEWS, "inspect FILE --stats --metadata", "inspect FILE --stats --metadata --json",
    "trace FILE --tokens 1,5,5 --generate 3 --lens --recheck", "trace FILE READ --save-aprt newfolder",
    "diff FILE FILE --tokens 1,5 --compute q8 --json",
)  # fmt: skip
# Need other files of the same shapes
SHAPED = (
    "diff FILE hf --tokens 1,5,5", "diff hf FILE --weights --json", "diagnose aprt FILE --tokens 1,5,5",
    "trace FILE READ --patch layer0.mlp.act=saved.safetensors", "diff FILE npy --suggest-map --tokens 1,5,5",
    "diff FILE q.gguf --tokens 1,5 --calibrate sharded",
)  # fmt: skip
WORDY = (
    "trace FILE ee --chat", "patch FILE e a", "patch FILE --pairs pairs.txt", "trace FILE e</s> --special",
    "diff FILE hf --prompts prompts.txt",
)  # fmt: skip
MICROGPT = (
    *VIEWS, "trace FILE READ --backward --step", "gradcheck --model FILE e", "sample --model FILE -n 3",
    "patch FILE emma emmy --target a --against b --json", "explain FILE logits[-1,a] READ --backward",
)  # fmt: skip
DUMP = (
    "diff FILE FILE", "diff m.gguf FILE", "diff FILE hf --json", "diagnose FILE m.gguf",
    "diagnose FILE hf --json", "diff FILE m.gguf -v --positions last", "diff m.gguf FILE --suggest-map",
    "diff FILE saved.safetensors", "diff m.gguf hf --calibrate FILE", "diff FILE m.gguf --layout *.attn.q=TC",
    "trace m.gguf --patch layer0.mlp.act=FILE", "trace m.gguf --add layer0.attn.out=FILE --json",
)  # fmt: skip
OF_MICROGPT = (
    "diff FILE FILE", "diff c.safetensors FILE", "diff FILE micro.safetensors --json",
    "diagnose FILE c.safetensors", "trace emma --patch layer0.mlp.act=FILE",
    "diagnose FILE c.safetensors --json",
)  # fmt: skip
CORPUS = (
    "survey c.safetensors FILE --out new.survey.safetensors",
    "survey m.gguf FILE --json",
    "survey c.safetensors FILE --skip-bad --limit 3",
)
SURVEY = (
    "survey FILE", "survey FILE --json -v", "diff FILE s.survey.safetensors",
    "diff s.survey.safetensors FILE --json", "survey c.safetensors names.txt --top 1 --resume --out FILE",
)  # fmt: skip
TEXTS = ["emma", "ava", "", "mia", "olivia", "abcd", "a"]
CORPORA = ("texts.txt", "texts.jsonl", "texts.jsonl.gz", "texts.txt.zst", "texts.parquet", "texts.parquet.gz")


def _of(lines: tuple[str, ...], read: str, token: str = "#5") -> tuple[str, ...]:
    """Fill in the input text and the target token of command lines."""
    element = token.removeprefix("#")
    filled = (line.replace("[-1,TOKEN]", f"[-1,{element}]").replace("TOKEN", token) for line in lines)
    return tuple(line.replace("READ", read) for line in filled)


# File -> the commands that read it
READERS: dict[str, tuple[str, ...]] = {
    "m.gguf": _of((*DECODER, *SHAPED, *WORDY), "abc"),
    "q.gguf": _of((*DECODER, *SHAPED), "--tokens 1,5,5"),
    "hf": _of((*DECODER, *SHAPED, *WORDY), "abc"),
    "sharded": _of((*DECODER, *SHAPED), "--tokens 1,5,5"),
    "m.apr": _of(DECODER, "--tokens 1,5,5"),
    "c.safetensors": (
        *_of(MICROGPT, "emma", "a"), "diff FILE FILE emma", "diff FILE micro.safetensors",
        "train --resume FILE --data names.txt", "train --resume FILE --data names.txt --log log.jsonl",
    ),
    "w.safetensors": tuple(f"{line} --n-head 4" for line in _of(MICROGPT, "emma", "a")),
    "log.jsonl": (
        "timeline FILE", "timeline FILE --json",
        "train --resume c.safetensors --data names.txt --log FILE",
    ),
    "names.txt": (
        "train --steps 3 --data FILE", "train --resume c.safetensors --data FILE",
        "train --steps 3 --data FILE --vocab data --log new.jsonl --trace-every 1",
    ),
    **dict.fromkeys(("saved.safetensors", "doc.json", "aprt", "npy", "dump.npz", "dump.pt"), tuple(
        line if "--weights" in line else f"{line} --tokens 1,5,5" for line in DUMP
    )),
    **dict.fromkeys(("micro.safetensors", "micro.json"), OF_MICROGPT),
    "map.toml": (
        "diff m.gguf npy --map FILE --tokens 1,5,5", "diagnose npy m.gguf --map FILE --tokens 1,5,5 --json",
        "diff m.gguf npy --map FILE",
    ),
    "prompts.txt": ("diff m.gguf hf --prompts FILE", "diff m.gguf hf --prompts FILE --json"),
    **dict.fromkeys(CORPORA, CORPUS),
    "s.survey.safetensors": SURVEY,
    "imatrix.gguf": ("survey FILE", "survey FILE --json"),
    "pairs.txt": (
        "patch m.gguf --pairs FILE", "patch m.gguf --pairs FILE --json",
        "patch --pairs FILE --target a --against b",
    ),
}  # fmt: skip
PLAIN = (
    "trace emma", "trace emma --backward --step --json", "trace olivia -v --values --jsonl", "gradcheck emma",
    "trace --seed 3 ava --ablate layer0.attn.head2@3:5 --scale embed.pos=0.5", "inspect",
    "inspect --seed 1 --json", "explain layer0.attn.scores[1,3,2] emma",
    "explain layer0.mlp.act@2:5 emma --backward", "patch emma emmy",
    "attribute emma --position 2 --against n", "attribute emma --json",
    "patch emma emmy --sites layer*.attn.head*", "train --steps 3",
    "train --steps 3 --data names.txt --batch-size 2 --n-layer 2 --log new.jsonl --trace-every 2",
    "train --steps 3 --data names.txt --vocab data --watch ava --autosave 0", "trace emma --validate --json",
    "trace --schema", "diff --schema", "trace emma --save new.safetensors --layer *.head*",
    "trace m.gguf --tokens 1,5 --generate 2 --temperature 1 --seed 3",
    "trace m.gguf e --layers 1-1 --positions last",
    "diff c.safetensors micro.safetensors --rtol 0.1 --atol 1e-6", "inspect m.gguf --filter *attn_q* --stats",
    "trace m.apr --tokens 1,2 --rope-pairs halves --set num_heads=4",
    "survey c.safetensors names.txt --top 2 --histograms *",
    "survey m.gguf texts.jsonl --max-tokens 4 --json",
    "survey c.safetensors texts.txt texts.jsonl.gz --shard 1/2 --out new.survey.safetensors",
    "survey m.gguf texts.txt.zst --imatrix new.gguf --sample 2 --seed 3", "survey names.txt --limit 3 -v",
    "trace emma --html new.html", "explain layer0.attn.scores[1,3,2] emma --html new.html",
    "patch emma emmy --html new.html", "trace m.gguf e --html new.html --plot probs.svg",
    "attribute emma --html - --out new.txt", "timeline log.jsonl --html new.html",
    "trace emma --plot new.svg",
)  # fmt: skip


def make(folder: Path) -> None:
    """Write all good files to the folder. They are the same each time."""
    metadata = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": [],
        "tokenizer.ggml.token_type": [3] * 3 + [1] * 58, "tokenizer.chat_template": TEMPLATE,
        "tokenizer.ggml.tokens": [*TINY_TOKENS, *(f"x{i}" for i in range(61))][:61],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    config = CASES["llama_gqa"] | {"intermediate_size": 64}  # so that rows of q.gguf are whole blocks
    weights = random_weights(config, "llama_gqa")
    header = read_gguf_header(write_gguf(folder / "m.gguf", config, weights))
    (folder / "m.gguf").write_bytes(gguf_bytes(header.metadata | metadata, header.tensors))
    write_gguf(folder / "q.gguf", config, random_quantised_weights(config, lambda name: "Q8_0", "q"))
    write_tokenizer(write_folder(folder / "hf", config, weights), TEMPLATE)
    write_folder(folder / "sharded", config, weights, "BF16", shards=2)
    (folder / "m.apr").write_bytes(apr_bytes(METADATA, apr_model()[0]))
    (folder / "prompts.txt").write_text("e\nab cd\nhello\n")
    (folder / "pairs.txt").write_text("e\ta\ni\to\nu\ta\te\ti\n")
    names = "emma\nolivia\nava\nisabella\nsophia\nmia\namelia\nharper\nevelyn\nabigail\n"
    (folder / "names.txt").write_text(names)
    for name in CORPORA:
        (folder / name).write_bytes(corpus_bytes(TEXTS, name))
    _train(folder)
    _dump(folder)
    _survey(folder)


def _train(folder: Path) -> None:
    """Write a checkpoint in the middle of a run, and the log."""
    fresh = init()
    names = (folder / "names.txt").read_text().split()
    trainer = Trainer(fresh, Documents.fit(names, fresh.tokenizer, 16), Schedule(12))
    trainer.run_id = "0" * 16
    with TrainingLog(folder / "log.jsonl", trainer, "emma", 2, append=False) as records:
        for record in trainer.run():
            records.add(record)
            if record.step == 8:
                break
    save(trainer.model("good"), folder / "c.safetensors")
    save_file({name: np.array(array) for name, array in fresh.params.items()}, folder / "w.safetensors")


def _dump(folder: Path) -> None:
    """Write the dumps that the tool saves, and dumps as another engine would save them."""
    model, checkpoint = folder / "m.gguf", folder / "c.safetensors"
    read = ("trace", model, "--tokens", "1,5,5")
    chosen = ("layer*.mlp.*", "layer*.attn.q", "layer*.attn.out", "embed.*", "logits")
    few = [word for name in chosen for word in ("--layer", name)]
    _do(*read, *few, "--save", folder / "saved.safetensors")
    _do(*read, *few, "--json", "--values", "--out", folder / "doc.json")
    _do(*read, "--save-aprt", folder / "aprt")
    _do("trace", "emma", "--model", checkpoint, "--save", folder / "micro.safetensors")
    _do("trace", "emma", "--model", checkpoint, "--json", "--values", "--out", folder / "micro.json")
    arrays = load_file(folder / "saved.safetensors")
    (folder / "npy").mkdir()
    for name, array in arrays.items():
        np.save(folder / "npy" / f"{name.replace('mlp.up', 'up_proj')}.npy", array)
    np.savez(folder / "dump.npz", **{name: array for name, array in arrays.items() if "layer1" not in name})
    (folder / "dump.pt").write_bytes(of_arrays(arrays))
    lines = [
        "tokens = [1, 5, 5]", "[events]", '"layer{i}.mlp.up" = "layer{i}.up_proj"',
        '"logits" = "logits[:, :61]"', '"layer0.attn.q" = { from = "layer0.attn.q", layout = "TC" }',
    ]  # fmt: skip
    (folder / "map.toml").write_text("\n".join(lines) + "\n")


def _survey(folder: Path) -> None:
    """Write a survey with an example of each unit, and an importance matrix."""
    read = ("survey", folder / "c.safetensors", folder / "names.txt", "--top", 1)
    _do(*read, "--out", folder / "s.survey.safetensors")
    _do("survey", folder / "m.gguf", folder / "texts.txt", "--imatrix", folder / "imatrix.gguf")


def _do(*words: object) -> None:
    done = microgpt(*words)
    assert done.code == 0, done.err


def restore(good: Path, copy: Path) -> Path:
    """Replace a damaged file or folder by a copy of the good one, if there is one, and return its path."""
    if copy.is_dir() and not copy.is_symlink():
        shutil.rmtree(copy)
    else:
        copy.unlink(missing_ok=True)
    if good.is_dir():
        shutil.copytree(good, copy)
    elif good.exists():
        shutil.copyfile(good, copy)
    return copy
