"""microgpt survey"""

import typer

from .option_checks import given
from .option_rules import refuse
from .options import OfFile
from .output import put_schema
from .survey_options import SurveyExecution, SurveyScope, SurveySource, SurveyTargets, SurveyTexts

MEANT = ("arguments", "as_json", "schema")  # parameters that mean something beside files that were made
OF_A_SURVEY = ("out", "imatrix", "imatrix_output", "force", "verbose")


def survey(
    context: typer.Context,
    *,
    source: SurveySource,
    texts: SurveyTexts,
    measured: SurveyScope,
    running: SurveyExecution,
    output: SurveyTargets,
    of_file: OfFile,
) -> None:
    """Measure a model over a corpus: channels, heads, layers, losses. The same result however it is run."""
    from .survey_run import made_before, named_imatrix, run_survey, show_imatrix, show_made

    asked, arguments = given(context), source.arguments or []
    made, imatrix = made_before(arguments), named_imatrix(arguments)
    if output.schema:
        refuse(asked, "--schema", ("schema", *(["arguments"] if made or imatrix else [])))
        put_schema("survey" if imatrix is None else "imatrix", None)
    elif imatrix is not None:
        refuse(asked, "an importance matrix", MEANT)
        show_imatrix(imatrix, output)
    elif made:
        refuse(asked, "surveys that were made", (*MEANT, *OF_A_SURVEY))
        show_made(made, output)
    else:
        run_survey(source, texts, measured, running, output, of_file)


EXAMPLES = (
    "microgpt survey --model microgpt.safetensors · "
    "microgpt survey smollm2.gguf texts.jsonl.zst --max-tokens 256 --workers 8 "
    "--out smollm2.survey.safetensors · "
    "microgpt survey smollm2.survey.safetensors --verbose · "
    "microgpt survey smollm2.gguf texts.txt --imatrix smollm2.imatrix.gguf"
)
