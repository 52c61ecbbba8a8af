"""trace: run a model under its hook bus and collect a Trace. Each family has a module of its own, and
loads only that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ..errors import InputError

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..decoder.model import Decoder
    from ..microgpt.model import Model
    from ..running.interventions import Intervention
    from .result import Trace


def trace(
    model: LanguageModel,
    text: str | None = None,
    *,
    names: Sequence[str] | None = None,
    values: bool | Sequence[str] | None = None,
    top_k: int | None = None,
    time: bool = False,
    backward: bool = False,
    step: bool = False,
    interventions: Sequence[Intervention] = (),
    tokens: Sequence[int] | None = None,
    special: bool = False,
    chat: bool = False,
    positions: str | Sequence[int] | None = None,
    lens: bool = False,
    target: str | int | None = None,
    generate: int = 0,
    temperature: float = 0.0,
    seed: int = 42,
    recheck: bool = False,
) -> Trace:
    """Trace a text through a model, under the hooks subscribed to `model.hooks`.

    `names` (names, globs, apr's stage names) choose the events that the Trace holds, by default those
    that the command shows with --verbose; `values` whether it keeps their arrays, as --values and --save
    do (or those of which names or parts, as layer0.attn.weights[1]; by default a microGPT's are kept, a
    decoder's are not); `top_k` candidates per position, `time` seconds per event.

    For a microGPT `backward` adds the gradients of the text's loss and `step` one Adam step after
    them. For a decoder `tokens` take the place of the text, `special` parses special tokens in it,
    `chat` renders it by the file's chat template, `positions` ("all", "last" or indices) get logits
    and predictions, `lens` adds `top_k` tokens (else one) after every layer and, after attention too,
    P and rank of a `target` (its text, ␣ for a blank, #ID or the id) at the `positions`, else the last;
    `generate` continues for so many tokens (`temperature`, `seed`), `recheck` compares with a run that
    nobody observes.

    The model is not changed. Raises InputError for a text,
    a name or an option that does not fit.
    """
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k: expected at least 1, found {top_k}")
    if text is not None and not isinstance(text, str):
        raise InputError(f"text: expected a string, found {type(text).__name__}; ids are given as tokens=")
    of_decoder: dict[str, Any] = {
        "tokens": tokens, "special": special, "chat": chat, "positions": positions, "lens": lens,
        "target": target, "generate": generate, "temperature": temperature, "seed": seed, "recheck": recheck,
    }  # fmt: skip
    if "prompts" not in model.abilities:
        defaults = trace.__kwdefaults__ or {}
        if given := [name for name, value in of_decoder.items() if value is not defaults[name]]:
            raise InputError(f"{', '.join(given)}: for a decoder, which {model.origin} is not")
        from .microgpt_tracing import trace_microgpt

        return trace_microgpt(
            cast("Model", model), "emma" if text is None else text, names or ("*",),
            True if values is None else values, top_k or 1, backward, step, time, interventions,
        )  # fmt: skip
    if backward or step:
        raise InputError("a production model is traced forward only: there are no gradients and no steps")
    from .decoder_tracing import trace_decoder

    return trace_decoder(
        cast("Decoder", model), text, names=names, values=values or False, top_k=top_k, time=time,
        interventions=interventions, **of_decoder,
    )  # fmt: skip
