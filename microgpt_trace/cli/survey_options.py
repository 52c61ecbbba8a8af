"""The options of `microgpt survey`, in groups."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .options import DECODER, Json, ModelFile, Schema

CORPUS, MEASURED, RUN = "What is read", "What is measured", "How it is run"


@dataclass(frozen=True, eq=False, repr=False)
class SurveyTexts:
    """The model and the corpus, or surveys that were made."""

    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [CORPUS]...",
            help="A model, and files, globs or URLs of texts (a line each, .jsonl, .parquet; .gz, .zst), "
            "or -; or surveys to show or to merge.",
            show_default="an untrained microGPT, and the names that it trains on",
        ),
    ] = None
    model_file: ModelFile = None
    field: Annotated[
        str, typer.Option(help="The text in .jsonl and .parquet.", metavar="NAME", rich_help_panel=CORPUS)
    ] = "text"
    limit: Annotated[
        int | None, typer.Option(help="The first so many texts.", min=1, metavar="N", rich_help_panel=CORPUS)
    ] = None
    sample: Annotated[
        int | None,
        typer.Option(help="So many, chosen by --seed.", min=1, metavar="N", rich_help_panel=CORPUS),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of --sample, else of an untrained model.",
            min=0,
            show_default="0, 42",
            rich_help_panel=CORPUS,
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="At most so many tokens of each text.", min=1, metavar="N", rich_help_panel=DECODER
        ),
    ] = None
    chat: Annotated[
        bool, typer.Option("--chat", help="Each text as a message of a chat.", rich_help_panel=DECODER)
    ] = False
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count bad lines, do not refuse them.", rich_help_panel=CORPUS)
    ] = False


@dataclass(frozen=True, eq=False, repr=False)
class SurveyScope:
    """What is measured."""

    events: Annotated[
        list[str] | None,
        typer.Option(
            "--events", help="Channels of these events alone.", metavar="GLOB", rich_help_panel=MEASURED,
            show_default="all but logits, probs and what costs extra",
        ),
    ] = None  # fmt: skip
    histograms: Annotated[
        list[str] | None,
        typer.Option(
            "--histograms", help="Quantiles of the magnitudes of these.", metavar="GLOB",
            rich_help_panel=MEASURED,
        ),
    ] = None  # fmt: skip
    top: Annotated[
        int,
        typer.Option(
            help="Keep N examples for each unit of an MLP.", min=0, metavar="N", rich_help_panel=MEASURED
        ),
    ] = 0


@dataclass(frozen=True, eq=False, repr=False)
class SurveyExecution:
    """How it is run."""

    workers: Annotated[
        int, typer.Option(help="Processes of this machine.", min=0, metavar="N", rich_help_panel=RUN)
    ] = 0
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="A Dask cluster. It has to be trusted: its scheduler can run code here.", metavar="ADDRESS",
            rich_help_panel=RUN,
        ),
    ] = None  # fmt: skip
    shard: Annotated[
        str | None,
        typer.Option(help="The I-th of N parts of the corpus alone.", metavar="I/N", rich_help_panel=RUN),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of --out.", rich_help_panel=RUN)
    ] = False


@dataclass(frozen=True, eq=False, repr=False)
class SurveyTargets:
    """Where the survey goes."""

    out: Annotated[
        Path | None,
        typer.Option("--out", help="Keep all of it in this file.", metavar="FILE.survey.safetensors"),
    ] = None
    imatrix: Annotated[
        Path | None,
        typer.Option(help="Write llama.cpp's importance matrix.", metavar="FILE.gguf"),
    ] = None
    imatrix_output: Annotated[
        bool,
        typer.Option("--imatrix-output", help="With the matrix that makes logits in it."),
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every event, head, token and unit.")] = (
        False
    )
    as_json: Json = False
    schema: Schema = False
