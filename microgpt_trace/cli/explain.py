"""microgpt explain"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import InputError
from ..hooks.names import select_names
from ..text.printable import command, quoted
from ..tracing.trace import trace
from . import named_model
from .common_options import (
    PRODUCTION,
    FileSettings,
    HelpPanel,
    Source,
    against_option,
    position_option,
    text_argument,
    token_ids,
)
from .exports import Exports, give
from .option_checks import OF_GRADIENTS, RUN_PARAMETERS, command_line, given_words
from .option_groups import argument, flag, group, option
from .output import Output, exit_unless
from .trace_exports import explain_command

if TYPE_CHECKING:
    from ..explaining.explanation import Explanation
    from ..models.language_model import LanguageModel
    from ..render.sections import Section

EXAMPLE = "microgpt explain 'layer0.attn.scores[1,3,2]' emma"


@group(HelpPanel.SHOWN)
class ElementChoice(Source):
    """The model, the element and the input. `_request` decides which argument is which."""

    first: str | None = argument("[MODEL]", "Model file or folder.", show_default="an untrained microGPT")
    second: str | None = argument(
        "ELEMENT", "Element of an event or a parameter, such as 'layer0.attn.q\\[3,5]' or 'logits\\[-1,a]'."
    )
    third: str | None = text_argument()
    terms: int = option("Number of terms to list for each sum.", default=16, min=1)
    by_writer: bool = flag("Split an attention score by what wrote the streams of its query and key.")
    backward: bool = flag(
        "Explain the gradient of the loss, or of the logit of --target, with respect to the element, by the "
        "chain rule."
    )
    target: str | None = option(
        "Token whose logit --backward differentiates. Write the token with ␣ for a space, or #ID.",
        metavar="TOKEN", family=PRODUCTION,
    )  # fmt: skip
    against: str | None = against_option()
    position: int | None = position_option()


def explain(
    context: typer.Context, *, choice: ElementChoice, output: Output, exports: Exports, settings: FileSettings
) -> None:
    """Write out the arithmetic of one number: the formula, terms, sum, inputs and uses.

    Exit code 0: the result equals the traced value. 1: the result differs. 2: the element does not exist.
    """
    output.check()
    path, element, text = _request(choice)
    exports.check("explain", {"--out": output.target}, [path])
    from ..explaining.explain import explain as explain_element

    tokens, backward = token_ids(choice.tokens), choice.backward
    model = named_model.model_from(path, choice.seed, settings)
    named_model.refuse_other_family(context, model)
    if choice.by_writer:
        from ..attribution.score_writers import score_by_writer

        parts = score_by_writer(model, element, text, tokens=tokens)
        give(context, parts, output, exports, element, str, view={"terms": choice.terms})
        return exit_unless(parts.check.holds is True)
    if text is not None and _is_named(model, text) and not _is_named(model, element):
        raise InputError(f"the element comes before the text: {quoted(text)} {quoted(element)}")
    result = explain_element(
        model, element, text, tokens=tokens, backward=backward, terms=choice.terms, target=choice.target,
        against=choice.against, position=choice.position,
    )  # fmt: skip
    before = [choice.first] if choice.first not in (None, element) else []
    after = [] if text is None else [text]

    def again(name: str, gradient: bool) -> str:
        only = (*RUN_PARAMETERS, *OF_GRADIENTS) if gradient else RUN_PARAMETERS
        more = ["--backward"] if gradient and not backward else []
        return command("explain", [*before, name, *after], [*given_words(context, only=only)[1], *more])

    page = partial(_page_of_trace, context, path, model, text, result)
    give(
        context, result, output, exports, result.element, partial(again, gradient=backward),
        view={"command": again}, page=page if model.trainable else None,
    )  # fmt: skip
    exit_unless(result.holds)


EXAMPLES = (
    EXAMPLE,
    f"{EXAMPLE} --by-writer",
    "microgpt explain 'logits\\[-1,a]' emma --backward",
    "microgpt explain qwen.gguf 'layer3.mlp.down\\[4,7]' \"Paris is in\" --backward --target ␣France",
    "microgpt explain qwen.gguf 'layer3.attn.head2\\[4,100]' \"The capital of France is\"",
)


def _page_of_trace(
    context: typer.Context, path: Path | None, model: "LanguageModel", text: str | None,
    result: "Explanation", sections: Sequence["Section"],
) -> str:  # fmt: skip
    """Return the trace page of a microGPT, opened at the element."""
    from ..render.page.trace_page import trace_page

    whole = trace(model, text, values=True, step=True)
    start = f"{'gradient ' * (result.phase == 'backward')}{result.element}"
    again = explain_command(context, path, model, whole)
    return trace_page(whole, model, sections, command_line(context), again, start=start)


def _request(choice: ElementChoice) -> tuple[Path | None, str, str | None]:
    """Return the model's path, the element and the text. The element may be the first word."""
    path, rest = choice.model, [w for w in (choice.first, choice.second, choice.third) if w is not None]
    if rest and not _is_element(rest[0]):
        if rest[0] == "small" and (len(rest) == 3 or _is_element(rest[-1])):
            path, no_model = named_model.model_before(["small"], choice.model), None
        else:
            path, no_model = named_model.model_and_text(rest[0], None, choice.model)
        if no_model is None:
            rest = rest[1:]
        elif len(rest) == 3 or (len(rest) == 2 and _is_element(rest[1])):
            raise InputError(f"{rest[0] or repr('')}: no such model; expected [MODEL] ELEMENT [TEXT]")
    if rest and rest[0].startswith("d "):
        raise InputError(f"{rest[0]!r} is a gradient: write {quoted(rest[0][2:])} and add --backward")
    if not rest:
        raise InputError(f"expected an element, for example {EXAMPLE}")
    if len(rest) > 1 and path is None and named_model.names_a_model(rest[1]):
        raise InputError(f"the model comes first: {rest[1]} {rest[0]!r}")
    if len(rest) > 2:
        raise InputError(f"expected [MODEL] ELEMENT [TEXT], found a further argument {rest[2]!r}")
    return path, rest[0], rest[1] if len(rest) == 2 else None


def _is_named(model: "LanguageModel", text: str) -> bool:
    """Return True if the text names events or parameters of the model, such as layer0.attn.q[3,5]."""
    try:
        return bool(select_names([re.split(r"[@\[]", text)[0]], [*model.plan, *model.config.shapes()]))
    except InputError:
        return False


def _is_element(text: str) -> bool:
    """Return True if a word has an index or an @ and is not the name of a file."""
    return not named_model.is_there(text) and ("@" in text or text.endswith("]"))
