"""microgpt gradcheck"""

from .named_model import microgpt_from
from .option_groups import argument, group
from .options import ModelChoice, WeightSettings
from .output import exit_unless, show


@group()
class GradcheckOptions(ModelChoice):
    """A model and the name whose gradients are checked."""

    text: str | None = argument("[TEXT]", "Name whose loss is differentiated.", show_default="emma")


def gradcheck(*, checked: GradcheckOptions, bare: WeightSettings) -> None:
    """Check every gradient of a microGPT against central differences in float64.

    Exit code 1: a gradient disagrees.
    """
    from ..render.results.checking import gradcheck_sections
    from ..tracing.gradient_check import gradcheck as check

    model, text = microgpt_from(checked.model, checked.seed, bare), checked.text
    text = "emma" if text is None else text
    rows = list(check(model, text))
    show(gradcheck_sections(rows, text), None)
    exit_unless(all(row.holds for row in rows))


EXAMPLES = ("microgpt gradcheck olivia", "microgpt gradcheck --model microgpt.safetensors")
