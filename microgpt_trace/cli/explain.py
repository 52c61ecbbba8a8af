"""microgpt explain"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import InputError
from ..text.printable import command, quoted
from ..tracing.trace import trace
from .drawn import Drawn, give
from .named_model import is_there, model_and_text, model_from, refuse_other_family
from .option_checks import OF_THE_RUN, command_line, said
from .option_groups import argument, flag, group, option
from .options import MICROGPT, ModelFile, OfFile, Seed, TextToRead, TokenIds, token_ids
from .output import Output
from .trace_page import explaining

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..explaining.explanation import Explanation
    from ..render.sections import Section

EXAMPLE = "microgpt explain 'layer0.attn.scores[1,3,2]' emma"


@group()
class Asked:
    """Which element of which model, and what is read: the words tell themselves apart."""

    first: str | None = argument(
        metavar="[MODEL]", help="A model file or folder.", show_default="an untrained microGPT"
    )
    second: str | None = argument(
        metavar="ELEMENT",
        help="An event or parameter with an index: 'layer0.attn.q\\[3,5]', 'logits\\[-1,a]'.",
        show_default=False,
    )
    third: TextToRead = None
    model: ModelFile = None
    backward: bool = flag("--backward", help="Its gradient: the chain rule.", rich_help_panel=MICROGPT)
    terms: int = option(default=16, help="How many terms of a sum are listed.", min=1)


def explain(
    context: typer.Context,
    *,
    asked: Asked,
    output: Output,
    drawn: Drawn,
    seed: Seed = None,
    tokens: TokenIds = None,
    of_file: OfFile,
) -> None:
    """Write out the arithmetic of one number: formula, terms, sum, what it came from and goes to.

    Exit code 0: it equals the traced value. 1: it does not. 2: there is no such element.
    """
    output.check()
    path, element, text = _request(asked)
    drawn.check("explain", {"--out": output.target}, [path])
    from ..explaining.explain import explain as explain_element

    known = token_ids(tokens)
    model = model_from(path, seed, of_file)
    refuse_other_family(context, model)
    found = explain_element(model, element, text, tokens=known, backward=asked.backward, terms=asked.terms)
    before = [asked.first] if asked.first not in (None, element) else []
    after = [] if text is None else [text]
    options = said(context, only=OF_THE_RUN)[1]

    def again(name: str, gradient: bool) -> str:
        return command("explain", [*before, name, *after], [*options, *["--backward"] * gradient])

    page = partial(_page_of_trace, context, path, model, text, found)
    give(
        context, found, output, drawn, found.element, partial(again, gradient=asked.backward),
        view={"command": again}, page=page if "gradients" in model.abilities else None,
    )  # fmt: skip
    if not found.holds:
        raise typer.Exit(1)


EXAMPLES = (
    f"{EXAMPLE} · microgpt explain 'logits\\[-1,a]' emma --backward · "
    "microgpt explain qwen.gguf 'layer3.attn.head2\\[4,100]' \"The capital of France is\""
)


def _page_of_trace(
    context: typer.Context, path: Path | None, model: "LanguageModel", text: str | None,
    found: "Explanation", sections: Sequence["Section"],
) -> str:  # fmt: skip
    """The page of a model that a page can run itself: that of its trace, opened at the element."""
    from ..render.page.trace_page import trace_page

    whole = trace(model, text, values=True, step=True)
    start = f"{'gradient ' * (found.phase == 'backward')}{found.element}"
    again = explaining(context, path, model, whole)
    return trace_page(whole, model, sections, command_line(context), again, start=start)


def _request(asked: Asked) -> tuple[Path | None, str, str | None]:
    """Which model, which element and what text: a first word that is no element names the model."""
    path, rest = asked.model, [w for w in (asked.first, asked.second, asked.third) if w is not None]
    if rest and not _is_element(rest[0]):
        path, no_model = model_and_text(rest[0], None, asked.model)
        if no_model is None:
            rest = rest[1:]
        elif len(rest) == 3 or (len(rest) == 2 and _is_element(rest[1])):
            raise InputError(f"{rest[0] or repr('')}: no such model, to explain {rest[1]!r}")
    if rest and rest[0].startswith("d "):
        raise InputError(f"{rest[0]!r} is a gradient: name {quoted(rest[0][2:])} and add --backward")
    if not rest:
        raise InputError(f"an element is needed, like {EXAMPLE}")
    if len(rest) > 2:
        raise InputError(f"expected [MODEL] ELEMENT [TEXT], found a third word after {rest[0]}: {rest[2]!r}")
    return path, rest[0], rest[1] if len(rest) == 2 else None


def _is_element(text: str) -> bool:
    """Whether a word has brackets or an @, as an element has and no file that is here."""
    return not is_there(text) and ("@" in text or text.endswith("]"))
