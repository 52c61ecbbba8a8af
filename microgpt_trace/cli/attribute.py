"""microgpt attribute"""

from pathlib import Path
from typing import Any, Literal

import typer

from ..errors import InputError
from ..interrupt import EXIT_CODE
from ..signals import interruptible
from .common_options import FileSettings, HelpPanel, Source, positions_of, token_ids
from .exports import Exports, give
from .named_model import model_and_text, model_from, refuse_other_family
from .option_checks import RUN_PARAMETERS, same_command
from .option_groups import flag, group, option
from .output import Output, exit_unless, note, put_schema
from .progress_line import progress


@group(HelpPanel.SHOWN)
class AttributionOptions:
    """The contributions to show, and the prediction to explain."""

    method: Literal["writes", "gradient", "gradient-x-input", "integrated"] = option(
        "writes: what each part adds to the logits. gradient: L2 norm of the gradient. gradient-x-input: sum "
        "of gradient * value. integrated: integrated gradients; for heads, MLPs and neurons the conductance.",
        default="writes",
    )  # fmt: skip
    baseline: str | None = option(
        "Token whose embedding begins the path of --method integrated.", metavar="TOKEN", show_default="zeros"
    )
    neurons: bool = flag("Also show the neurons that raise the difference most. Needs a gradient method.")
    prompts: Path | None = option(
        "Show means over the prompts in this file. Its columns, separated by tabs, are TEXT and, optionally, "
        "TARGET and AGAINST.", panel=HelpPanel.INPUT,
    )  # fmt: skip
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

    --method attributes the prediction by gradients instead. Exit code 1: the parts do not sum to the logits,
    or integrated gradients do not sum to the change of the prediction, or have an error above 1 % of it.
    """
    if output.schema:
        single = attribution.method == "writes" and attribution.prompts is None
        return put_schema("attribution" if single else "prompts_attribution", output.out)
    output.check()
    positions = positions_of(attribution.position, "--position")
    path, text = model_and_text(source.first, source.second, source.model)
    if attribution.prompts is not None and text is not None:
        raise InputError("a text cannot be combined with --prompts")
    exports.check("attribute", {"--out": output.target}, [path, attribution.prompts])
    model = model_from(path, source.seed, settings)
    refuse_other_family(context, model)
    from ..attribution.attribute import attribute as attribute_text
    from ..attribution.attribute import attribute_prompts

    options: Any = {name: getattr(attribution, name) for name in ("target", "against", "method", "baseline")}
    call: Any = attribute_prompts
    if attribution.prompts is None:
        call, ids = attribute_text, token_ids(source.tokens)
        options |= {"tokens": ids, "ablation": not attribution.no_ablation, "neurons": attribution.neurons}
    noun = "ablation or step" if attribution.prompts is None else "prompt"
    with interruptible() as interrupted, progress(noun) as report:
        result = call(model, attribution.prompts or text, positions=positions, **options, report=report)
    if output.as_json:
        for remark in getattr(result, "notes", ()):
            note(remark)
    top, only = {"top": attribution.top}, ("first", "second", *RUN_PARAMETERS)
    give(
        context, result, output, exports, str(attribution.prompts or text),
        lambda name: same_command(context, ["--show", name], only=only, of="trace"), view=top, figure=top,
    )  # fmt: skip
    if interrupted:
        raise SystemExit(EXIT_CODE)
    exit_unless(result.ok)


EXAMPLES = (
    "microgpt attribute emma --model microgpt.safetensors",
    "microgpt attribute emma --position 2 --against n",
    'microgpt attribute smollm2.gguf "The capital of France is"',
    'microgpt attribute smollm2.gguf "The capital of France is" --method gradient-x-input --neurons',
    "microgpt attribute smollm2.gguf --prompts prompts.txt --method gradient",
)
