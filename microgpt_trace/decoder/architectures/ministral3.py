"""Ministral 3: a Llama whose queries grow with the position after RoPE."""

from __future__ import annotations

from functools import cached_property

from ...plans.plan import Plan
from ...text.frozen import frozen
from ..architecture import Architecture
from ..config import DecoderConfig
from ..layered_plan import Layout, plan_of
from ..settings import COUNT, OBJECT, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import MSCALES, gguf_rope, read_activation, read_rope, read_window
from .llama import MODULES, NAMES


@frozen(slots=False)
class Ministral3Config(DecoderConfig):
    """The config of a Ministral 3."""

    query_growth: float = 1.0
    query_period: int = 1  # the number of positions with the same factor

    @cached_property
    def plan(self) -> Plan:
        growth = self.query_growth, self.query_period
        return plan_of(self, Layout(turned=lambda rows, _, q, k: (rows.scaled_by_position(q, *growth), k)))


YARN = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
GROWTH, PERIOD = "llama_4_scaling_beta", "original_max_position_embeddings"


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the growth of the queries, the window of all layers, and the function of the MLP."""
    rope = read_rope(settings, usual=YARN, besides=(GROWTH, "max_position_embeddings"))
    given = settings.get("rope_parameters", OBJECT) or settings.get("rope_scaling", OBJECT) or YARN
    inner, every = Settings(given, settings.problems), tuple(range(sizes["n_layer"]))
    return {
        "rope": rope, "activation": read_activation(settings, "hidden_act", "silu"),
        "query_growth": inner.require(GROWTH, POSITIVE), "query_period": inner.require(PERIOD, WHOLE),
        **read_window(settings, every if settings.get("sliding_window", COUNT) else ()),
    }  # fmt: skip


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the growth of the queries. Files store the second of the scales of yarn, and the
    first is 1, as in llama.cpp."""
    rope, scale = gguf_rope(keys, sizes["head_dim"], by_all_dims=True), "rope.scaling.yarn_log_multiplier"
    scales = dict(zip(MSCALES, (1.0, keys.get(scale, POSITIVE)), strict=True))
    growth = {GROWTH: keys.require("attention.temperature_scale", POSITIVE)}
    return {"hidden_act": "silu", **rope, "rope_scaling": {**rope["rope_scaling"], **scales, **growth}}


ARCHITECTURES = {
    "ministral3": Architecture(
        Ministral3Config, NAMES, options, MODULES, from_gguf=from_gguf, permuted=True, tied=False,
        defaults={"norm_eps": 1e-5, "head_dim": 128, "n_kv_head": 8},
    ),
}  # fmt: skip
