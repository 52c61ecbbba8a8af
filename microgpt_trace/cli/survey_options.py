"""The options of `microgpt survey`, in groups."""

from pathlib import Path

from .common_options import PRODUCTION, HelpPanel, model_option
from .option_groups import argument, flag, group, option
from .output import Output


@group(HelpPanel.INPUT)
class SurveySource:
    """The model and the corpus, or finished surveys."""

    arguments: list[str] | None = argument(
        "[MODEL] [CORPUS]...",
        "A model, then its corpus: files, globs, URLs, or - for standard input. A file has one text per "
        "line, or is .jsonl or .parquet, and may be compressed as .gz or .zst. To show or merge finished "
        "surveys, name only surveys.",
        show_default="an untrained microGPT, and the training names",
    )  # fmt: skip
    model: Path | None = model_option()


@group("Corpus")
class SurveyTexts:
    """The texts of the corpus to read."""

    limit: int | None = option("Read only the first N texts.")
    sample: int | None = option("Read a random sample of N texts.")
    seed: int | None = option(
        "Seed of --sample or of an untrained microGPT.", min=0, show_default="0 for --sample, else 42"
    )
    max_tokens: int | None = option("Read only the first N tokens of each text.", family=PRODUCTION)
    chat: bool = flag("Format each text as a chat message.", family=PRODUCTION)
    field: str = option("Name of the .jsonl or .parquet field with the text.", default="text", metavar="NAME")
    skip_bad: bool = flag("Skip and count malformed lines, instead of ending with an error.")


@group("What to measure")
class SurveyScope:
    """The events to measure."""

    events: list[str] | None = option(
        "Measure only the channels of these events.",
        metavar="GLOB",
        show_default="all except logits, probs, chosen experts and events that need extra computation",
    )  # fmt: skip
    histograms: list[str] | None = option(
        "Measure quantiles of the absolute values of these events.", metavar="GLOB"
    )
    top: int = option("Show the N places with the largest values of each MLP unit.", default=0)


@group("Execution")
class SurveyExecution:
    """The processes and machines that run the survey."""

    workers: int = option("Number of worker processes. 0 uses only this process.", default=0)
    scheduler: str | None = option(
        "Address of a Dask cluster. Use only a cluster that you trust, because it can run code here.",
        metavar="ADDRESS",
    )  # fmt: skip
    shard: str = option(
        "Read only shard I of N shards of the corpus, such as 3/32.", default="1/1", metavar="I/N"
    )
    resume: bool = flag("Continue the survey in the file that --out names.")


@group(HelpPanel.SAVING)
class SurveyTargets(Output):
    """The files to write, and what to show."""

    verbose: bool = flag("Show every event, head, token and unit.", "--verbose", "-v", panel=HelpPanel.SHOWN)
    out: Path | None = option(
        "Save the survey as a safetensors file, which can be shown, merged and resumed.",
        metavar="FILE.survey.safetensors",
    )
    imatrix: Path | None = option("Write an importance matrix for llama.cpp.", metavar="FILE.gguf")
    imatrix_output: bool = flag("Include the output matrix (lm_head) in the importance matrix.")
    force: bool = flag("Overwrite existing files.")

    @property
    def target(self) -> None:
        """None, because the report is always written to standard output: --out is the file of the survey."""
        return None
