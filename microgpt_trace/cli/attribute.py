"""microgpt attribute"""

import typer

from .exports import Exports, give
from .named_model import model_and_text, model_from, refuse_other_family
from .option_checks import RUN_PARAMETERS, same_command
from .option_groups import flag, group, option
from .options import FileSettings, HelpPanel, Source, positions_of, token_ids
from .output import Output, exit_unless, note
from .progress import progress


@group(HelpPanel.SHOWN)
class AttributionOptions:
    """The contributions to show, and the prediction to explain."""

    top: int = option("Number of contributions to show per position.", default=20, min=1)
    no_ablation: bool = flag("Show only what each part of the model writes. Skip the ablations.")
    target: str | None = option(
        "Token whose logit the command explains. Write its text, with ␣ for a space, or #ID.",
        metavar="TOKEN", panel=HelpPanel.PREDICTIONS,
        show_default="the next token of the text, and the predicted token for the last position",
    )  # fmt: skip
    against: str | None = option(
        "Token to compare with the target. Write its text or #ID.",
        metavar="TOKEN", show_default="the most probable other token", panel=HelpPanel.PREDICTIONS,
    )  # fmt: skip
    position: str | None = option(
        'Positions whose predictions the command explains: "all", "last", or a list such as 0,3,-1.',
        metavar="LIST", show_default="all, or last for a production model", panel=HelpPanel.PREDICTIONS,
    )  # fmt: skip


def attribute(
    context: typer.Context, *, source: Source, attribution: AttributionOptions, output: Output,
    exports: Exports, settings: FileSettings,
) -> None:  # fmt: skip
    """Show what each head, MLP, embedding and bias adds to a prediction, and what the heads attend to.

    Exit code 0: the parts sum to the logits. 1: the sum differs. 2: the request does not fit the model.
    """
    output.check()
    positions = positions_of(attribution.position, "--position")
    path, text = model_and_text(source.first, source.second, source.model)
    exports.check("attribute", {"--out": output.target}, [path])
    model = model_from(path, source.seed, settings)
    refuse_other_family(context, model)
    from ..attribution.attribute import attribute as attribute_text

    with progress("ablating each component: layer") as report:
        result = attribute_text(
            model, text, tokens=token_ids(source.tokens), target=attribution.target,
            against=attribution.against, positions=positions, ablation=not attribution.no_ablation,
            report=report,
        )  # fmt: skip
    if output.as_json:
        for remark in result.notes:
            note(remark)
    top, only = {"top": attribution.top}, ("first", "second", *RUN_PARAMETERS)
    give(
        context, result, output, exports, result.text,
        lambda name: same_command(context, ["--show", name], only=only, of="trace"), view=top, figure=top,
    )  # fmt: skip
    exit_unless(result.ok)


EXAMPLES = (
    "microgpt attribute emma --model microgpt.safetensors",
    "microgpt attribute emma --position 2 --against n",
    'microgpt attribute smollm2.gguf "The capital of France is"',
)
