"""microgpt train"""

from __future__ import annotations

import signal
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DivergedError, FileFormatError, InputError, RunError
from ..files import check_target
from .options import DEFAULT_CHECKPOINT
from .output import INTERRUPTED, note, show

if TYPE_CHECKING:
    from ..render.training import Report
    from ..tokenizer import Tokenizer
    from ..traces import Trace
    from ..training import Trainer
    from .log import TrainingLog

WATCHED = "emma"
SAMPLES = 20
AUTOSAVE = 30.0  # seconds


class Vocab(str, Enum):
    az = "a-z"
    data = "data"


def _dimension(flag: str, what: str, default: int) -> Any:
    return typer.Option(flag, help=what, min=1, show_default=str(default))


def train(
    steps: Annotated[int | None, typer.Option(help="Adam steps.", min=1, show_default="5000")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="One name a line.", metavar="FILE", show_default="the packaged names.txt"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Names a step.", min=1, show_default="1")] = None,
    lr: Annotated[float | None, typer.Option(help="First learning rate.", show_default="0.01")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and order.", min=0, show_default="42")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The checkpoint.", metavar="FILE", show_default=str(DEFAULT_CHECKPOINT)),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this checkpoint, bit for bit.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing checkpoint or log.")] = False,
    vocab: Annotated[
        Vocab | None, typer.Option(help="a-z, or the characters of the data.", show_default="a-z")
    ] = None,
    n_layer: Annotated[int | None, _dimension("--n-layer", "Layers.", 1)] = None,
    n_embd: Annotated[int | None, _dimension("--n-embd", "Width of the stream.", 16)] = None,
    n_head: Annotated[int | None, _dimension("--n-head", "Attention heads.", 4)] = None,
    block_size: Annotated[int | None, _dimension("--block-size", "Longest name + 1.", 16)] = None,
    log: Annotated[
        Path | None, typer.Option(help="Write a JSON record per step.", metavar="FILE.jsonl")
    ] = None,
    trace_every: Annotated[
        int | None, typer.Option(help="Add a trace to the log every N steps.", min=1, metavar="N")
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(help="The name that is traced and reported.", metavar="NAME", show_default="emma"),
    ] = None,
) -> None:
    """Train microGPT on a file of names and leave a checkpoint."""
    if trace_every is not None and log is None:
        raise InputError("--trace-every adds to a log: it needs --log FILE.jsonl")
    target = out or resume or DEFAULT_CHECKPOINT
    resumes_target = resume is not None and resume.exists() and target.exists() and target.samefile(resume)
    check_target(target, force or resumes_target, f"--force overwrites it, --resume {target} goes on with it")
    if log is not None:
        if log.resolve() == target.resolve():
            raise InputError(f"--log {log}: the checkpoint is to be written there")
        check_target(log, force or resume is not None)
    asked = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed}
    dimensions = {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "block_size": block_size}
    trainer = _resumed(resume, asked, dimensions, vocab, data) if resume else _new(
        asked, dimensions, vocab, data
    )  # fmt: skip
    from .log import TrainingLog, watched_before

    watched = _watched(trainer, watch or (watched_before(log) if log and resume else None))
    with TrainingLog(log, trainer, watched, trace_every, append=resume is not None) as records:
        _run(trainer, target, records)


train.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt train · microgpt train --batch-size 32 --out big.safetensors --n-layer 2 · "
    "microgpt train --resume microgpt.safetensors · then: microgpt trace emma --model microgpt.safetensors"
)


def _new(
    asked: dict[str, Any], dimensions: dict[str, int | None], vocab: Vocab | None, data: Path | None
) -> Trainer:
    from ..documents import Documents, default_data, read_lines
    from ..model import Schedule, init
    from ..parameters import Config
    from ..training import Trainer

    schedule = Schedule(**{key: value for key, value in asked.items() if value is not None})
    path = data or default_data()
    lines = read_lines(path)
    tokenizer = _tokenizer(vocab, lines)
    config = Config(vocab_size=tokenizer.vocab_size, **{k: v for k, v in dimensions.items() if v is not None})
    documents = Documents.fit(lines, tokenizer, config.block_size)
    _tell(documents.notes)
    if not len(documents):
        raise FileFormatError(f"{path}: none of its {len(lines):,} lines fits the model")
    return Trainer(init(config, seed=schedule.seed, tokenizer=tokenizer), documents, schedule)


def _resumed(
    path: Path, asked: dict[str, Any], dimensions: dict[str, int | None], vocab: Vocab | None,
    data: Path | None,
) -> Trainer:  # fmt: skip
    from ..checkpoint import load
    from ..documents import Documents, default_data, read_lines
    from ..training import Trainer

    model = load(path)
    state = model.training
    if state is None or state.moments is None:
        raise FileFormatError(f"{path}: holds weights but no training state to resume")
    stored = vars(state.schedule) | vars(model.config)
    for name, value in (asked | dimensions).items():
        if value is not None and value != stored[name]:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {value} contradicts {path}, which says {stored[name]}")
    if state.step >= state.schedule.steps:
        raise InputError(f"{path}: stands at its last step, {state.step:,}; nothing is left to resume")
    lines = read_lines(data or default_data())
    if vocab is not None and _tokenizer(vocab, lines) != model.tokenizer:
        said = model.tokenizer.describe_chars()
        raise InputError(f"--vocab {vocab.value} contradicts {path}, whose characters are {said}")
    documents = Documents.fit(lines, model.tokenizer, model.config.block_size)
    if documents.fingerprint != state.data:
        raise InputError(
            f"{path} was trained on other data: expected {state.data}, found {documents.fingerprint}"
        )
    _tell(documents.notes)
    return Trainer(model, documents, state.schedule)


def _tokenizer(vocab: Vocab | None, lines: list[str]) -> Tokenizer:
    from ..tokenizer import Tokenizer

    return Tokenizer.of(line.strip() for line in lines) if vocab is Vocab.data else Tokenizer()


def _tell(notes: tuple[str, ...]) -> None:
    for text in notes:
        note(text)


def _watched(trainer: Trainer, asked: str | None) -> str:
    """The name whose probabilities are shown: the one asked for, emma, or the first of the data that can be
    written. Raises InputError for one that does not fit."""
    if asked is not None:
        from ..microgpt_tracing import prepare

        return prepare(trainer.model("this run"), asked).text
    names = trainer.documents.names
    fits = set(WATCHED) <= set(trainer.tokenizer.chars) and len(WATCHED) < trainer.params.config.block_size
    return WATCHED if fits else names[0]


def _run(trainer: Trainer, target: Path, records: TrainingLog) -> None:
    from ..render.training import Summary, print_summary, progress, stderr_screen

    schedule, start = trainer.schedule, trainer.done
    before = (trainer.train_loss(), trainer.held_out_loss(), _trace(trainer, records.watched))
    losses: list[float] = []
    began = monotonic()
    with progress(schedule.steps, start, stderr_screen()) as report, Interrupts() as interrupts:
        failed: RunError | None = None
        try:
            _steps(trainer, target, records, report, losses, interrupts)
        except DivergedError:
            raise
        except RunError as error:  # the log cannot be written: between two steps, so the run is whole
            failed = error
        interrupts.held_back = True  # nothing breaks the save
        _save(trainer, target)
    if failed is not None:
        raise failed
    seconds = monotonic() - began
    if interrupts.times:
        note(
            f"interrupted at step {trainer.done:,} of {schedule.steps:,}: saved to {target}; "
            f"`microgpt train --resume {target}` goes on"
        )
        raise SystemExit(INTERRUPTED)
    after = (trainer.train_loss(), trainer.held_out_loss(), _trace(trainer, records.watched))
    steps = schedule.steps - start
    summary = Summary(
        facts=_facts(trainer, start),
        losses=losses,
        train_loss=(before[0], after[0]),
        held_out_loss=(before[1], after[1]),
        watched=records.watched,
        targets=[target.label for target in after[2].targets],
        p_before=[target.p for target in before[2].targets],
        p_after=[target.p for target in after[2].targets],
        samples=_samples(trainer),
        closing=[
            ("time", f"{seconds:.2f} s for {steps:,} steps, {seconds / steps * 1e6:,.0f} µs a step"),
            ("checkpoint", str(target)),
            ("trace it", f"microgpt trace {records.watched} --model {target}"),
        ],
    )
    show(lambda screen: print_summary(summary, screen), None)


def _steps(
    trainer: Trainer, target: Path, records: TrainingLog, report: Report, losses: list[float],
    interrupts: Interrupts,
) -> None:  # fmt: skip
    """Take the steps to the last one or the first Ctrl-C; save now and then."""
    from ..render.training import look_every

    total, saved, last = trainer.schedule.steps, 0, monotonic()
    look, write = look_every(total - trainer.done), records.add if records else None
    try:
        for record in trainer.run():
            step, loss, lr = record
            losses.append(loss)
            if write is not None:
                write(record)
            if interrupts.times:
                break
            if step % look == 0 or step == total:
                report(step, lr, losses)
                if monotonic() - last > AUTOSAVE:
                    trainer.check_finite()
                    _save(trainer, target)
                    saved, last = step, monotonic()
        trainer.check_finite()
    except DivergedError as error:
        untouched = f"{target} is as it was" if target.exists() else "no checkpoint was written"
        left = f"{target} holds step {saved:,}" if saved else untouched
        raise DivergedError(f"{error}; {left}") from error


class Interrupts:
    """Lets Ctrl-C end the run between two steps: a step half taken could not be resumed bit for bit.

    A second Ctrl-C a second later interrupts at once, unless it is held back while saving. (Signals
    within a second are one: a wrapper may forward what the terminal sends as well.)
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.held_back = False

    def __enter__(self) -> Interrupts:
        self._previous = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _remember(self, signum: int, frame: object) -> None:
        now = monotonic()
        if self.times and now - self.times[0] > 1 and not self.held_back:
            raise KeyboardInterrupt
        self.times.append(now)


def _save(trainer: Trainer, target: Path) -> None:
    from ..checkpoint import save

    save(trainer.model(str(target)), target)


def _trace(trainer: Trainer, name: str) -> Trace:
    from ..tracing import trace

    return trace(trainer.model("this run"), name, values=False)


def _samples(trainer: Trainer) -> list[tuple[str, bool]]:
    from ..sampling import sample

    known = set(trainer.documents.names)
    drawn = sample(trainer.model("this run"), SAMPLES, seed=trainer.schedule.seed)
    return [(name, name in known) for name in drawn]


def _facts(trainer: Trainer, start: int) -> list[tuple[str, str]]:
    documents, schedule, config = trainer.documents, trainer.schedule, trainer.params.config
    layers = "1 layer" if config.n_layer == 1 else f"{config.n_layer} layers"
    size = "1 name" if schedule.batch_size == 1 else f"{schedule.batch_size} names"
    went = f"steps {start + 1:,} to {schedule.steps:,}" if start else f"{schedule.steps:,} steps"
    return [
        (
            "data",
            f"{len(documents):,} names: {len(documents.train):,} to train on, "
            f"{len(documents.held_out):,} held out by a hash of the name",
        ),
        ("vocabulary", trainer.tokenizer.describe()),
        (
            "model",
            f"{config.parameter_count:,} parameters: {layers} of {config.n_head} heads, "
            f"width {config.n_embd}, block {config.block_size}",
        ),
        ("training", f"{went} of {size}, Adam, lr {schedule.lr:g} falling to 0, seed {schedule.seed}"),
    ]
