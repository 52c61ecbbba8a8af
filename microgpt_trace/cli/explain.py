"""microgpt explain"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..text.command_lines import command, quoted
from .drawn import Drawn
from .explain_page import explanation_page
from .named_model import is_there, model_and_text, model_from, refuse_without
from .options import (
    MICROGPT,
    AprSettings,
    BareWeights,
    ModelFile,
    Seed,
    TextToRead,
    TokenIds,
    schema_option,
    token_ids,
)
from .output import Output, put_schema
from .trace_page import page_order

if TYPE_CHECKING:
    from ..explaining.explanation import Explanation
    from ..render.figures.panel import Picture

EXAMPLE = "microgpt explain 'layer0.attn.scores[1,3,2]' emma"


@dataclass(frozen=True, eq=False, repr=False)
class ElementAndText:
    """Which element of which model, and what is read: the words tell themselves apart."""

    first: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A model file or folder.", show_default="an untrained microGPT"
        ),
    ] = None
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="ELEMENT",
            help="An event or parameter with an index: 'layer0.attn.q\\[3,5]', 'logits\\[-1,a]'.",
            show_default=False,
        ),
    ] = None
    third: TextToRead = None
    model: ModelFile = None


class ExplanationOutput(Output):
    schema: Annotated[bool, schema_option("explain")] = False


def explain(
    context: typer.Context,
    *,
    words: ElementAndText,
    backward: Annotated[
        bool,
        typer.Option("--backward", help="Its gradient: the chain rule.", rich_help_panel=MICROGPT),
    ] = False,
    terms: Annotated[int, typer.Option(help="How many terms of a sum are listed.", min=1)] = 16,
    output: ExplanationOutput,
    drawn: Drawn,
    seed: Seed = None,
    bare: BareWeights,
    tokens: TokenIds = None,
    apr: AprSettings,
) -> None:
    """Write out the arithmetic of one number: formula, terms, sum, what it came from and goes to.

    Exit code 0: it equals the traced value. 1: it does not. 2: there is no such element.
    """
    output.check()
    if output.schema:
        put_schema("explanation", output.target)
        return
    path, element, text = _request(words)
    drawn.check("explain", output.target, [path])
    from ..explaining.explain import explain as explain_element
    from ..render.explanation import explanation_sections

    known = token_ids(tokens)
    loaded = model_from(path, seed, bare, apr)
    if tokens is not None:
        refuse_without("prompts", loaded, "--tokens")
    found = explain_element(loaded, element, text, tokens=known, backward=backward, terms=terms)
    said = {
        "--model": words.model, "--seed": seed, "--tokens": tokens, "--n-head": bare.n_head,
        "--bos": bare.bos, "--rope-pairs": apr.rope_pairs,
    }  # fmt: skip
    before = words.first if words.first != element else None

    def again(name: str, gradient: bool) -> str:
        return _command(before, name, text, said, apr.settings or [], gradient)

    sections = partial(explanation_sections, found, again)
    order = partial(page_order, context, drawn.html, path, seed, bare, apr)
    page = explanation_page(found, loaded, text, sections, again, order)
    drawn.save(context, {"explanation": lambda: _picture(found)}, page)
    output.give(found, sections)
    if not found.holds:
        raise typer.Exit(1)


EXAMPLES = (
    f"{EXAMPLE} · microgpt explain 'logits\\[-1,a]' emma --backward · "
    "microgpt explain qwen.gguf 'layer3.attn.head2\\[4,100]' \"The capital of France is\""
)


# What only a figure needs is loaded for it.
def _picture(found: "Explanation") -> "Picture":
    from ..render.figures.explanation import explanation_picture

    return explanation_picture(found)


def _command(
    model: str | None, element: str, text: str | None, options: Mapping[str, Any], settings: Sequence[str],
    gradient: bool,
) -> str:  # fmt: skip
    """What one types to have another element of the same run explained."""
    words = [word for word in (model, element, text) if word is not None]
    said = [(option, value) for option, value in options.items() if value is not None]
    said += [("--set", setting) for setting in settings]
    given = [part for option, value in said for part in (option, str(getattr(value, "value", value)))]
    return command("explain", words, [*given, *["--backward"] * gradient])


def _request(words: ElementAndText) -> tuple[Path | None, str, str | None]:
    """Which model, which element and what text: a first word that is no element names the model."""
    path, rest = words.model, [w for w in (words.first, words.second, words.third) if w is not None]
    if rest and not _is_element(rest[0]):
        path, no_model = model_and_text(rest[0], None, words.model)
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
