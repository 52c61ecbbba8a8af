"""The options of `microgpt survey`, in groups."""

from pathlib import Path

from .option_groups import argument, flag, group, option
from .options import DECODER, Json, ModelFile, Schema

CORPUS = "What is read"


@group()
class SurveySource:
    """The model and the corpus, or surveys that were made."""

    arguments: list[str] | None = argument(
        metavar="[MODEL] [CORPUS]...",
        help="A model, and files, globs or URLs of texts (a line each, .jsonl, .parquet; .gz, .zst), "
        "or -; or surveys to show or to merge.",
        show_default="an untrained microGPT, and the names that it trains on",
    )
    model_file: ModelFile = None


@group(CORPUS)
class SurveyTexts:
    """Which texts of the corpus are read, and how."""

    field: str = option(default="text", help="The text in .jsonl and .parquet.", metavar="NAME")
    limit: int | None = option(help="The first so many texts.", min=1, metavar="N")
    sample: int | None = option(help="So many, chosen by --seed.", min=1, metavar="N")
    seed: int | None = option(help="Of --sample, else of an untrained model.", min=0, show_default="0, 42")
    max_tokens: int | None = option(
        help="At most so many tokens of each text.", min=1, metavar="N", rich_help_panel=DECODER
    )
    chat: bool = flag("--chat", help="Each text as a message of a chat.", rich_help_panel=DECODER)
    skip_bad: bool = flag("--skip-bad", help="Count bad lines, do not refuse them.")


@group("What is measured")
class SurveyScope:
    """What is measured."""

    events: list[str] | None = option(
        "--events",
        help="Channels of these events alone.",
        metavar="GLOB",
        show_default="all but logits, probs and what costs extra",
    )
    histograms: list[str] | None = option(
        "--histograms", help="Quantiles of the magnitudes of these.", metavar="GLOB"
    )
    top: int = option(default=0, help="Keep N examples for each unit of an MLP.", min=0, metavar="N")


@group("How it is run")
class SurveyExecution:
    """How it is run."""

    workers: int = option(default=0, help="Processes of this machine.", min=0, metavar="N")
    scheduler: str | None = option(
        help="A Dask cluster. It has to be trusted: its scheduler can run code here.", metavar="ADDRESS"
    )
    shard: str = option(default="1/1", help="The I-th of N parts of the corpus alone.", metavar="I/N")
    resume: bool = flag("--resume", help="Go on with the file of --out.")


@group()
class SurveyTargets:
    """Where the survey goes."""

    out: Path | None = option("--out", help="Keep all of it in this file.", metavar="FILE.survey.safetensors")
    imatrix: Path | None = option(help="Write llama.cpp's importance matrix.", metavar="FILE.gguf")
    imatrix_output: bool = flag("--imatrix-output", help="With the matrix that makes logits in it.")
    force: bool = flag("--force", help="Write over files that are there.")
    verbose: bool = flag("--verbose", "-v", help="Every event, head, token and unit.")
    as_json: Json = False
    schema: Schema = False
