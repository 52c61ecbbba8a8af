"""microgpt survey"""

import typer

from .common_options import FileSettings
from .option_checks import parameters_given
from .option_rules import refuse
from .output import put_schema
from .survey_options import SurveyExecution, SurveyScope, SurveySource, SurveyTargets, SurveyTexts

OF_FILES = ("arguments", "as_json", "schema")  # allowed with finished surveys and importance matrices
OF_SURVEYS = ("out", "imatrix", "imatrix_output", "force", "verbose")  # also allowed with finished surveys


def survey(
    context: typer.Context, *, source: SurveySource, texts: SurveyTexts, scope: SurveyScope,
    output: SurveyTargets, execution: SurveyExecution, settings: FileSettings,
) -> None:  # fmt: skip
    """Measure a model over a corpus: channels, heads, layers and losses.

    The result is the same for any number of processes and shards.
    """
    from .survey_run import finished_surveys, named_imatrix, run_survey, show_imatrix, show_surveys

    options, arguments = parameters_given(context), source.arguments or []
    surveys, imatrix = finished_surveys(arguments), named_imatrix(arguments)
    if output.schema:
        refuse(options, "--schema", ("schema", *(["arguments"] if surveys or imatrix else [])))
        put_schema("survey" if imatrix is None else "imatrix", None)
    elif imatrix is not None:
        refuse(options, "an importance matrix", OF_FILES)
        show_imatrix(imatrix, output)
    elif surveys:
        refuse(options, "finished surveys", (*OF_FILES, *OF_SURVEYS))
        show_surveys(surveys, output)
    else:
        run_survey(source, texts, scope, execution, output, settings)


EXAMPLES = (
    "microgpt survey --model microgpt.safetensors",
    "microgpt survey smollm2.gguf texts.jsonl --max-tokens 256 --workers 8 --out smollm2.survey.safetensors",
    "microgpt survey smollm2.survey.safetensors --verbose",
    "microgpt survey smollm2.gguf texts.txt --imatrix smollm2.imatrix.gguf",
)
