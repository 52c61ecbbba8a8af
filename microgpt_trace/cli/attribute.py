"""microgpt attribute"""

import typer

from .drawn import Drawn, give
from .named_model import model_and_text, model_from, refuse_other_family
from .option_checks import OF_THE_RUN, same_command
from .option_groups import flag, group, option
from .options import OfFile, Seed, Source, TokenIds, positions_of, token_ids
from .output import Output, note
from .progress import progress


@group()
class Question:
    """Which prediction is taken apart, and how far."""

    target: str | None = option(
        help="Whose logit is explained: a token's text, ␣ for a blank, or #ID.",
        metavar="TOKEN",
        show_default="the token that follows, or the prediction where none does",
    )
    against: str | None = option(
        help="The token that it is told apart from.", metavar="TOKEN", show_default="the most probable other"
    )
    position: str | None = option(
        help="Where: a number (-1 is the last), a list, all or last.",
        metavar="N",
        show_default="all; of a production model: last",
    )
    no_ablation: bool = flag("--no-ablation", help="Only what parts write, remove none of them.")
    top: int = option(default=20, help="Parts shown of each position.", min=1)


def attribute(
    context: typer.Context,
    *,
    source: Source,
    question: Question,
    output: Output,
    drawn: Drawn,
    seed: Seed = None,
    tokens: TokenIds = None,
    of_file: OfFile,
) -> None:
    """Say which heads, MLPs, embeddings and biases made a prediction, and what heads look at.

    Exit code 0: the parts sum to the logits. 1: they do not. 2: the request does not fit.
    """
    output.check()
    positions = positions_of(question.position, "--position", "a number, all, last or a list like 0,3,-1")
    path, text = model_and_text(source.first, source.second, source.model)
    drawn.check("attribute", {"--out": output.target}, [path])
    model = model_from(path, seed, of_file)
    refuse_other_family(context, model)
    from ..attribution.attribute import attribute as attribute_text

    with progress("removing each part: layer") as report:
        result = attribute_text(
            model, text, tokens=token_ids(tokens), target=question.target, against=question.against,
            positions=positions, ablation=not question.no_ablation, report=report,
        )  # fmt: skip
    if output.as_json:
        for remark in result.notes:
            note(remark)
    top, only = {"top": question.top}, ("first", "second", *OF_THE_RUN)
    give(
        context, result, output, drawn, result.text,
        lambda name: same_command(context, ["--show", name], only=only, of="trace"), view=top, figure=top,
    )  # fmt: skip
    if not result.ok:
        raise typer.Exit(1)


EXAMPLES = (
    "microgpt attribute emma --model microgpt.safetensors · "
    "microgpt attribute emma --position 2 --against n · "
    'microgpt attribute smollm2.gguf "The capital of France is"'
)
