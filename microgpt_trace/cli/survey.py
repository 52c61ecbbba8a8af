"""microgpt survey"""

import typer

from .option_checks import given
from .option_rules import refuse
from .options import AprSettings, BareWeights
from .output import put_schema
from .survey_options import SurveyExecution, SurveyScope, SurveyTargets, SurveyTexts

# What stands in surveys that were made already.
_OF_A_RUN = (
    "model_file", "field", "limit", "sample", "seed", "max_tokens", "chat", "skip_bad", "events",
    "histograms", "top", "workers", "scheduler", "shard", "resume", "n_head", "bos", "rope_pairs", "settings",
)  # fmt: skip
_OF_A_SURVEY = ("out", "imatrix", "imatrix_output", "verbose", "force")


def survey(
    context: typer.Context,
    *,
    texts: SurveyTexts,
    measured: SurveyScope,
    running: SurveyExecution,
    output: SurveyTargets,
    bare: BareWeights,
    apr: AprSettings,
) -> None:
    """Measure a model over a corpus: channels, heads, layers, losses. The same result however it is run."""
    asked, arguments = given(context), texts.arguments or []
    if output.schema and not arguments:
        refuse(asked, ["out"], "--schema")
        put_schema("survey", None)
        return
    from .survey_run import made_before, named_imatrix, run_survey, show_imatrix, show_made

    made, imatrix = made_before(arguments), named_imatrix(arguments)
    if output.schema:
        refuse(asked, ["out", *(["arguments"] if imatrix is None and not made else [])], "--schema")
        put_schema("survey" if imatrix is None else "imatrix", None)
    elif imatrix is not None:
        refuse(asked, (*_OF_A_RUN, *_OF_A_SURVEY), "an importance matrix")
        show_imatrix(imatrix, output)
    elif made:
        refuse(asked, _OF_A_RUN, "surveys that were made")
        show_made(made, output)
    else:
        run_survey(texts, measured, running, output, bare, apr)


EXAMPLES = (
    "microgpt survey --model microgpt.safetensors · "
    "microgpt survey smollm2.gguf texts.jsonl.zst --max-tokens 256 --workers 8 "
    "--out smollm2.survey.safetensors · "
    "microgpt survey smollm2.survey.safetensors --verbose · "
    "microgpt survey smollm2.gguf texts.txt --imatrix smollm2.imatrix.gguf"
)
