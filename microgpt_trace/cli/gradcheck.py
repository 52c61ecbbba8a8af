"""microgpt gradcheck"""

import typer

from .common_options import FileSettings, Source, token_ids
from .named_model import model_and_text, model_from, refuse_other_family
from .output import exit_unless, show
from .progress_line import progress


def gradcheck(context: typer.Context, *, source: Source, settings: FileSettings) -> None:
    """Check the gradients of the loss of a text against central differences in float64.

    Every element of a microGPT's gradients is checked. The events and parameters of a production model are
    checked along random directions. Exit code 1: a gradient disagrees.
    """
    from ..render.results.check_sections import gradcheck_sections
    from ..tracing.gradient_check import gradcheck as check

    path, text = model_and_text(source.first, source.second, source.model)
    model = model_from(path, source.seed, settings)
    refuse_other_family(context, model)
    inputs = model.read(text, token_ids(source.tokens))
    with progress("gradient") as report:
        rows = list(check(model, text, tokens=token_ids(source.tokens), report=report))
    events = [row for row in model.plan.values() if not row.extra]
    shown = inputs.text or source.tokens or ""  # a model without a tokenizer has no text
    show(gradcheck_sections(rows, shown, len(events) + len(model.plan.parameters)), None)
    exit_unless(all(row.holds for row in rows))


EXAMPLES = (
    "microgpt gradcheck olivia",
    'microgpt gradcheck qwen2.5-0.5b-q4_k_m.gguf "The capital of France"',
)
