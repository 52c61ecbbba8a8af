"""Granite: a Llama whose embedding, scores, branches and logits are multiplied by numbers of the config."""

from __future__ import annotations

from ...text.frozen import frozen
from ..architecture import Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import POSITIVE, Options, Settings, Sizes
from ..shared_options import read_factors, usual_from_gguf, usual_options
from .llama import FLAGGED_BIASES, MODULES, NAMES


@frozen(slots=False)
class GraniteConfig(LayeredConfig):
    """The config of a Granite. A factor of None means that nothing is multiplied."""

    embedding_multiplier: float | None = None
    attention_multiplier: float | None = None  # None means 1/sqrt(head_dim)
    residual_multiplier: float | None = None
    logits_multiplier: float | None = None  # 1 / logits_scaling

    @property
    def layout(self) -> Layout:
        return Layout(
            embedding=lambda rows: rows.embedding(self.embedding_multiplier),
            score_scale=self.attention_multiplier, branch_factor=self.residual_multiplier,
            logits_factor=self.logits_multiplier,
        )  # fmt: skip


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the function of the MLP, and the factors."""
    factors = read_factors(settings, "embedding_multiplier", "residual_multiplier", "logits_scaling")
    divisor = factors.pop("logits_scaling")
    return {
        **usual_options(settings, sizes),
        "attention_multiplier": settings.get_or_default("attention_multiplier", POSITIVE, 1.0),
        "logits_multiplier": divisor and 1 / divisor, **factors,
    }  # fmt: skip


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the factors. A factor of 0 is not applied."""
    scale = keys.get("attention.scale", POSITIVE) or sizes["head_dim"] ** -0.5
    names = {
        "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }  # fmt: skip
    factors = {ours: keys.get(theirs, POSITIVE) or 1.0 for theirs, ours in names.items()}
    return {**usual_from_gguf(keys, sizes), "attention_multiplier": scale, **factors}


ARCHITECTURES = {
    "granite": Architecture(
        GraniteConfig, NAMES, options, MODULES, from_gguf=from_gguf, permuted=True,
        example={"embedding_multiplier": 2.0, "residual_multiplier": 2.0, "logits_multiplier": 2.0},
        defaults={"norm_eps": 1e-6}, tied=False, flagged_biases=FLAGGED_BIASES,
    ),
}  # fmt: skip
