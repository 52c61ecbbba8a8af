"""Llamas with one change: Ministral 3 (queries grow with the position), ERNIE 4.5 (RoPE turns neighbouring
channels), Hunyuan (norms of q and k after RoPE) and Apertus (an MLP without a gate, with xIELU).
"""

from __future__ import annotations

from functools import partial

from ...errors import InputError
from ...plans.blocks import Blocks
from ...text.frozen import frozen
from ..architecture import Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import COUNT, OBJECT, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import MSCALES, gguf_rope, read_activation, read_rope, read_window
from . import llama
from .llama import ATTENTION_BIASES, FLAGGED_BIASES, MODULES, NAMES, QK_NORMS, from_gguf


@frozen(slots=False)
class Ministral3Config(LayeredConfig):
    """The config of a Ministral 3. A factor of q changes after `query_period` positions."""

    query_growth: float = 1.0
    query_period: int = 1

    @property
    def layout(self) -> Layout:
        growth = self.query_growth, self.query_period
        return Layout(turned=lambda rows, _, q, k: (rows.scaled_by_position(q, *growth), k))


YARN = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
GROWTH, PERIOD = "llama_4_scaling_beta", "original_max_position_embeddings"


def options_of_ministral(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the growth of the queries, the window of all layers, and the function of the MLP."""
    rope = read_rope(settings, usual=YARN, besides=(GROWTH, "max_position_embeddings"))
    given = settings.get("rope_parameters", OBJECT) or settings.get("rope_scaling", OBJECT) or YARN
    inner, every = Settings(given, settings.problems), tuple(range(sizes["n_layer"]))
    return {
        "rope": rope, "activation": read_activation(settings, "hidden_act", "silu"),
        "query_growth": inner.require(GROWTH, POSITIVE), "query_period": inner.require(PERIOD, WHOLE),
        **read_window(settings, every if settings.get("sliding_window", COUNT) else ()),
    }  # fmt: skip


def ministral_from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the growth of the queries. Files store the second of the scales of yarn, and the
    first is 1, as in llama.cpp."""
    rope, scale = gguf_rope(keys, sizes["head_dim"], by_all_dims=True), "rope.scaling.yarn_log_multiplier"
    scales = dict(zip(MSCALES, (1.0, keys.get(scale, POSITIVE)), strict=True))
    growth = {GROWTH: keys.require("attention.temperature_scale", POSITIVE)}
    return {"hidden_act": "silu", **rope, "rope_scaling": {**rope["rope_scaling"], **scales, **growth}}


@frozen(slots=False)
class ErnieConfig(LayeredConfig):
    """The config of an ERNIE 4.5."""

    layout = Layout(adjacent=True)


def normed_after_rope(rows: Blocks, layer: int, q: str, k: str) -> tuple[str, str]:
    """Add norms of the heads of q and k after RoPE."""
    return rows.norms_of_queries_and_keys(q, k, rows.config.head_dim, "rope_norm")


@frozen(slots=False)
class HunyuanConfig(LayeredConfig):
    """The config of a Hunyuan."""

    layout = Layout(turned=normed_after_rope)


def options_of_hunyuan(settings: Settings, sizes: Sizes) -> Options:
    """Read as for a Llama. With a setting `alpha` of dynamic RoPE, only the base changes, as in
    transformers."""
    given = settings.get("rope_parameters", OBJECT) or settings.get("rope_scaling", OBJECT) or {}
    both, dim = Settings({**settings.values, **given}, settings.problems), sizes["head_dim"]
    alpha = both.get("alpha", POSITIVE)
    if alpha is None or given.get("rope_type", given.get("type")) != "dynamic":
        return llama.options(settings, sizes)
    theta = both.get_or_default("rope_theta", POSITIVE, 1e4) * alpha ** (dim / (dim - 2))
    settings.values = {**settings.values, "rope_scaling": None, "rope_theta": theta, "rope_parameters": None}
    return llama.options(settings, sizes)


@frozen(slots=False)
class ApertusConfig(LayeredConfig):
    """The config of an Apertus."""

    layout = Layout(mlp=Blocks.plain_mlp)


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip


def options_of_apertus(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the function of the MLP."""
    activation = read_activation(settings, "hidden_act", "xielu")
    return {"rope": read_rope(settings, 12e6, usual=LLAMA3), "activation": activation, "qk_norm": True}


def apertus_from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate as for a Llama. Raises InputError if xIELU has another slope at 0 than 1/2."""
    beta = Settings(keys.values, keys.problems).get("xielu.beta", POSITIVE)
    if beta not in (None, 0.5):
        raise InputError(f"xielu.beta {beta} is not supported; expected 0.5")
    return from_gguf(keys, sizes) | {"hidden_act": "xielu"}


AFTER_ROPE = ("self_attn.query_layernorm", "self_attn.key_layernorm")
HUNYUAN = NAMES.changed(
    "a Hunyuan", ("attn_q_norm", "attn_k_norm"),
    layer={f"attn_{n}_rope_norm": (f"attn_{n}_norm", name) for n, name in zip("qk", AFTER_ROPE, strict=True)},
)  # fmt: skip
ALPHAS = {f"{of}.{name}": f"mlp_{name}" for of in ("mlp.act_fn", "xielu") for name in ("alpha_p", "alpha_n")}
APERTUS = NAMES.changed(
    "an Apertus", ("mlp_wgate",), more=ALPHAS,
    layer={
        "attn_norm": ("attn_norm", "attention_layernorm"), "mlp_norm": ("ffn_norm", "feedforward_layernorm"),
    },
    skipped=(*NAMES.skipped, "act_fn.beta", "act_fn.eps"),  # the same in all models
)  # fmt: skip
_sibling = partial(Architecture, modules=MODULES, from_gguf=from_gguf, tied=False)
ARCHITECTURES = {
    "ministral3": _sibling(
        Ministral3Config, NAMES, options_of_ministral, from_gguf=ministral_from_gguf, permuted=True,
        defaults={"norm_eps": 1e-5, "head_dim": 128, "n_kv_head": 8},
    ),
    "ernie4_5": _sibling(
        ErnieConfig, NAMES.changed("an ERNIE 4.5"), partial(llama.options, theta=5e5), tied=True,
        flagged_biases={"use_bias": sum(FLAGGED_BIASES.values(), ())},
        defaults={"head_dim": 128, "n_kv_head": 2, "norm_eps": 1e-5},
    ),
    "hunyuan_v1_dense": _sibling(
        HunyuanConfig, HUNYUAN, options_of_hunyuan,
        flagged_biases=ATTENTION_BIASES, heads_first=AFTER_ROPE, defaults={"norm_eps": 1e-5},
    ),
    "apertus": _sibling(
        ApertusConfig, APERTUS, options_of_apertus,
        from_gguf=apertus_from_gguf, flagged_biases=ATTENTION_BIASES, heads_first=QK_NORMS,
        defaults={"norm_eps": 1e-5}, example={"qk_norm": True, "activation": "xIELU"},
    ),
}  # fmt: skip
