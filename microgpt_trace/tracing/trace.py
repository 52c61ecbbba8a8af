"""trace: run a model with its hooks and return a Trace. Importing this module loads no NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .options import Token, TraceOptions

if TYPE_CHECKING:
    from ..interpreter.backward import Give
    from ..interventions.interventions import Intervention
    from ..models.language_model import LanguageModel
    from .result import Trace


def trace(
    model: LanguageModel, text: str | None = None, *,
    names: Sequence[str] | None = None, values: bool | Sequence[str] | None = None, top_k: int | None = None,
    time: bool = False, backward: bool = False, step: bool = False,
    interventions: Sequence[Intervention] = (), tokens: Sequence[int] | None = None, special: bool = False,
    chat: bool = False, positions: str | Sequence[int] | None = None, lens: bool = False,
    target: Token | Sequence[Token] = None, against: Token = None, position: int | None = None,
    parameters: Sequence[str] = (), on_gradient: Give | None = None,
    generate: int = 0, temperature: float = 0.0, seed: int = 42, recheck: bool = False,
) -> Trace:  # fmt: skip
    """Run a model over a text, with the hooks subscribed to `model.hooks`, and return the Trace.

    The model is not changed. Raises InputError if a text, a name or an option does not fit the model.

    - `names` chooses the events of the Trace: names, globs or apr's stage names. By default the Trace has the
      events that the command shows with --verbose.
    - If `values` is True, the Trace keeps the arrays of the chosen events. A list in `values` names the
      events or parts to keep, such as layer0.attn.weights[1]. By default the Trace keeps the arrays of a
      microGPT, but not of a decoder.
    - `top_k` is the number of candidates per position. `time` measures the seconds of each event.
    - `backward` adds the gradients of the loss.

    For a microGPT:
    - `step` adds the gradients and one Adam step.

    For a decoder:
    - `tokens` replaces the text. `special` parses special tokens in the text, and `chat` applies the file's
      chat template to the text.
    - `positions` chooses the positions with logits and predictions: "all", "last" or indices.
    - `lens` adds the logit lens, which predicts `top_k` tokens (by default one) after every layer. `target`
      adds the probability and rank of a token after every attention and every layer, at `positions` or, by
      default, at the last position. `target` is the token's text (␣ means a blank), #ID or the id.
    - With `backward`, `target` is the token whose logit at `position` (by default the last position) is
      differentiated instead of the loss. The logit of the token `against` is subtracted. With several
      targets, each has a backward pass after one forward pass; `more_gradients` has those of the others.
    - With `backward`, `parameters` (names or globs) adds the gradients of these parameters. If `on_gradient`
      is given, it is called with the name and the gradient of each of them, and the Trace keeps only norms.
    - `generate` is the number of tokens to add to the prompt, sampled with `temperature` and `seed`.
    - `recheck` compares the run with a run without observers, and the gradient with a central difference.
    """
    options = TraceOptions(
        text=text, names=names, values=values, top_k=top_k, time=time, backward=backward, step=step,
        interventions=interventions, tokens=tokens, special=special, chat=chat, positions=positions,
        lens=lens, target=target, against=against, position=position, parameters=parameters,
        on_gradient=on_gradient, generate=generate, temperature=temperature, seed=seed, recheck=recheck,
    )  # fmt: skip
    from .traced_run import traced  # with NumPy and the interpreter, which --help does not need

    return traced(model, options)
