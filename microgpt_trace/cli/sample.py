"""microgpt sample"""

from pathlib import Path

from .common_options import DEFAULT_CHECKPOINT, HelpPanel, WeightSettings
from .named_model import microgpt_from
from .option_groups import group, option
from .output import note, put


@group(HelpPanel.PREDICTIONS)
class NamesToSample:
    """A model, and the settings for sampling names from the model."""

    model: Path = option(
        "Checkpoint to sample from, or small: the trained microGPT of this package.", metavar="PATH",
        default=DEFAULT_CHECKPOINT, panel=HelpPanel.INPUT,
    )  # fmt: skip
    count: int = option("Number of names.", "-n", "--count", default=20, min=1)
    temperature: float = option(
        "Sampling temperature. 0 always picks the most likely letter.", default=0.5, min=0.0
    )
    prefix: str = option("First letters of every name.", default="")
    seed: int = option("Random seed. The same seed gives the same names.", default=42, min=0)


def sample(*, sampling: NamesToSample, bare: WeightSettings) -> None:
    """Sample new names from a trained model and print one per line."""
    from ..microgpt.sampling import sample as sample_names

    model = microgpt_from(sampling.model, None, bare)
    names = sample_names(
        model, sampling.count, temperature=sampling.temperature, seed=sampling.seed, prefix=sampling.prefix
    )
    put((f"{name}\n" for name in names), None)
    for text in model.assumed:  # printed last, so that a refused command prints only an error
        note(f"assumed: {text}")


EXAMPLES = ("microgpt sample -n 5 --prefix em", "microgpt sample --temperature 0")
