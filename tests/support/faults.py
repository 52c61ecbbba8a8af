"""Faults of the independent engine: of operations, of any event, and of quantised weights."""

import numpy as np
from support.engine_operations import norm, product, residual
from support.faulty_engine import Fault, decoder_plan, microgpt_config, microgpt_plan, overrides, renamed
from support.judges_decoder import kv_heads_of, rope_of
from support.tiny_models import SCALES, Blocks, tensor_shapes


def decoder_faults(config, layer=None) -> list[Fault]:
    """Return every fault that this config can have, in every layer or only in `layer`."""
    plan, shapes = decoder_plan(config), tensor_shapes(config)
    rows = [*_common(plan, shapes, config), *_rope_faults(config), *_decoder_faults(plan, config)]
    return _place(rows, plan, layer)


def microgpt_faults(params, n_head) -> list[Fault]:
    """Return every fault that this microGPT can have. A wrong wo shows first in `attn.head0`. An offset and
    an added BOS need one position more than there are tokens."""
    config = microgpt_config(params, n_head)
    plan, shapes = microgpt_plan(config), {n: a.shape for n, a in renamed(params).items()}
    bos = len(params["wte"]) - 1
    rows = [
        *_common(plan, shapes, config),
        ("position_offset", ("position-offset",), {"embed.pos": {"offset": 1}}),
        ("position_missing", ("part-missing",), {"embed.sum": {"added": 0.0}}),
        ("wte_for_head", ("another-weight",), {"logits": {"by": "model.embed_tokens"}}),
        *_activation_faults("relu", ("gelu", "gelu_tanh", "silu")),
        ("bos_added", ("bos",), {"tokens": {"prepend": bos}}),
        ("bos_missing", ("bos",), {"tokens": {"skip": 1}}),
    ]  # fmt: skip
    return _place(rows, plan, None)


def _place(rows, plan, layer):
    """Make faults from (id, cause, changes[, weights]), each with the first event that it changes. A fault
    that changes nothing in `layer` is left out."""
    faults = []
    for id, cause, changes, *weights in rows:
        if layer is None and "tokens" in changes:
            faults.append(Fault(id, "embed.tok", cause, None, changes))
            continue
        hit = next((op for op in plan if overrides(changes, layer, op)), None)
        if hit:
            faults.append(Fault(id, hit.event, cause, layer, changes, *weights))
    return faults


def _common(plan, shapes, config):
    """Yield the faults of operations that decoders and microGPT share."""
    seen = {}
    for op in plan:
        seen.setdefault(op.name, op)
    for name, op in seen.items():
        if op.function is norm:
            yield from _norm_faults(name, op.options, config)
        elif op.function is residual and name != "embed.sum":
            yield f"residual_missing@{name}", ("part-missing",), {name: {"kept": 0.0}}
            yield f"branch_twice@{name}", ("part-twice",), {name: {"added": 2.0}}
            yield f"branch_missing@{name}", ("part-missing",), {name: {"added": 0.0}}
        elif op.function is product and "by" in op.options:
            yield from _product_faults(name, [n for n in seen if _same(seen[n], op)], op, shapes, config)
    yield "embedding_scaled", ("embedding-scaled",), {"embed.tok": {"scale": config["hidden_size"] ** 0.5}}
    yield "embedding_row", ("embedding", "row", "token"), {"embed.tok": {"misread": True}}
    yield "scale_missing", ("scale-missing",), {"attn.scores": {"power": 0.0}}
    yield "scale_by_d", ("scale",), {"attn.scores": {"power": -1.0}}
    yield "mask_missing", ("mask-missing",), {"attn.weights": {"masked": False}}
    yield "mask_ahead", ("mask-shifted",), {"attn.weights": {"ahead": 1}}
    yield "mask_strict", ("mask-shifted",), {"attn.weights": {"strict": True}}
    yield "k_for_v", ("another-weight",), {"attn.v": {"weight": "self_attn.k_proj"}}


def _same(a, b):
    """Return True if two operations use the same matrix, as the heads use wo."""
    return a.layer is not None and a.options.get("by") == b.options["by"]


_OTHER_GAIN = {
    "input_layernorm": "post_attention_layernorm", "post_attention_layernorm": "input_layernorm",
    "self_attn.q_norm": "self_attn.k_norm", "self_attn.k_norm": "self_attn.q_norm",
}  # fmt: skip


def _norm_faults(name, options, config):
    eps = 1e-2 if config["rms_norm_eps"] < 1e-2 else 1e-1
    if options["of"] != "embed.norm":  # microGPT's embeddings are already normalised, so nothing would change
        yield f"norm_missing@{name}", ("norm-missing",), {name: {"skip": True}}
    yield f"eps@{name}", ("eps",), {name: {"eps": eps}}
    yield f"eps_outside@{name}", ("eps-outside",), {name: {"inside": False}}
    yield f"mean_subtracted@{name}", ("layernorm",), {name: {"centred": True}}
    if gain := options.get("gain"):
        last = f"model.layers.{config['num_hidden_layers'] - 1}.post_attention_layernorm"
        yield f"gain_missing@{name}", ("gain-missing",), {name: {"gain": ""}}
        yield f"gain_other@{name}", ("gain-of-another-norm",), {name: {"gain": _OTHER_GAIN.get(gain, last)}}
        yield f"gain_plus_one@{name}", ("gain-plus-one",), {name: {"plus": 1.0}}


def _product_faults(name, sharing, op, shapes, config):
    """Yield the faults of a product. `sharing` lists the operations with the same matrix, itself included."""
    if op.layer is None or name != sharing[0]:
        return
    by = f"model.layers.0.{op.options['by']}"

    def every(**options):
        return dict.fromkeys(sharing, options)

    rows, columns = shapes[f"{by}.weight"]
    if rows == columns:
        yield f"transposed@{name}", ("weight-transposed",), every(transposed=True)
    if config["num_hidden_layers"] > 1:
        yield f"other_layer@{name}", ("another-layer",), every(shift=1)
    if f"{by}.bias" not in shapes:
        return
    yield f"bias_missing@{name}", ("bias-missing",), every(bias=0.0)
    yield f"bias_twice@{name}", ("bias-twice",), every(bias=2.0)
    yield f"bias_other_layer@{name}", ("bias",), every(bias_shift=1)


def _rope_faults(config):
    def both(**options):
        return {"attn.q_rope": options, "attn.k_rope": options}

    rope = rope_of(config)
    base = rope["rope_theta"] * (100 if rope["rope_theta"] <= 1e4 else 0.01)
    yield "rope_interleaved", ("rope-interleaved",), both(interleaved=True)
    yield "rope_base", ("rope-base",), both(settings={"rope_theta": base})
    yield "rope_offset", ("rope-offset",), both(offset=1)
    yield "rope_direction", ("rope-direction",), both(direction=-1)
    yield "rope_missing", ("rope-missing",), both(skip=True)
    yield "rope_missing_k", ("rope-missing",), {"attn.k_rope": {"skip": True}}
    yield "qk_permuted", ("rows-in-pairs",), {f"attn.{n}": {"permuted": True} for n in "qk"}
    if rope["rope_type"] != "default":
        yield "rope_scaling_missing", ("rope-scaling-missing",), both(settings={"rope_type": "default"})
        yield "rope_factor", ("scaling", "factor"), both(settings={"factor": 2 * rope["factor"]})
    if rope["rope_type"] == "yarn":
        yield "rope_attention_factor", ("scaling", "attention"), both(settings={"attention_factor": 1.0})


def _activation_faults(right, kinds):
    for kind in kinds:
        yield f"{kind}_for_{right}", ("activation",), {"mlp.act": {"kind": kind}}


def _decoder_faults(plan, config):
    by = {op.name: op for op in plan}
    if 1 < kv_heads_of(config) < config["num_attention_heads"]:
        yield "kv_grouping_scores", ("grouping-keys",), {"attn.scores": {"modulo": True}}
        yield "kv_grouping_context", ("grouping-values",), {"attn.context": {"modulo": True}}
    windows = {op.options["window"] for op in plan if op.name == "attn.weights"} - {None}
    for window in windows:
        yield "window_missing", ("window-missing",), {"attn.weights": {"window": None}}
        yield "window_longer", ("window",), {"attn.weights": {"window": window + 1}}
    yield from _activation_faults("silu", ("gelu", "gelu_tanh"))
    swapped = {"mlp.gate": {"by": "mlp.up_proj"}, "mlp.up": {"by": "mlp.gate_proj"}}
    yield "gate_up_swapped", ("gate-up-swapped",), swapped
    yield "silu_on_up", ("gate-up-swapped",), {"mlp.act": {"of": "mlp.up"}, "mlp.hidden": {"b": "mlp.gate"}}
    if "attn.q_norm" in by:
        late = {f"attn.{n}_norm": {"turned": True} for n in "qk"}
        rest = {f"attn.{n}_rope": {"skip": True} for n in "qk"}
        skip = {"attn.q_norm": {"skip": True}, "attn.k_norm": {"skip": True}}
        yield "qk_norm_missing", ("norm-missing",), skip
        yield "qk_norm_after_rope", ("qk-norm-late",), late | rest
    if config.get("tie_word_embeddings"):
        shape = (config["vocab_size"], config["hidden_size"])
        fresh = {"lm_head.weight": np.random.RandomState(0).standard_normal(shape).astype(np.float32) * 0.02}
        yield "tied_head_missing", ("head", "tied"), {"logits": {"by": "lm_head"}}, fresh
    else:
        yield "wte_for_head", ("another-weight",), {"logits": {"by": "model.embed_tokens"}}
    yield "bos_added", ("bos",), {"tokens": {"prepend": config["bos_token_id"]}}
    yield "bos_missing", ("bos",), {"tokens": {"skip": 1}}  # for tokens that begin with it


# --- Faults of any event ---------------------------------------------------------------------


def _element(x):
    """Return the index of an element in the middle; in [H, T, T] of one that no mask of the tests hides."""
    if x.ndim == 3:
        return x.shape[0] - 1, x.shape[1] - 1, x.shape[1] - 2
    return tuple(n // 2 for n in x.shape)


def _put(x, at, value):
    x = x.copy()
    x[at] = value
    return x


def _middle(x):
    return (..., x.shape[-2] // 2, slice(None))


def _noise(x):
    row = x[_middle(x)]
    return np.random.RandomState(0).standard_normal(row.shape) * np.abs(x).max()


GENERIC = {  # kind: (default size, function of a value and a size)
    "scale": (1.01, lambda x, size: x * size),
    "sign": (None, lambda x, _: -x),
    "nan": (None, lambda x, _: _put(x, _element(x), np.nan)),
    "inf": (None, lambda x, _: _put(x, _element(x), np.inf)),
    "wrong_element": (1.0, lambda x, size: _put(x, _element(x), x[_element(x)] + size * np.abs(x).max())),
    "wrong_row": (None, lambda x, _: _put(x, _middle(x), x[..., 0, :])),
    "noise_row": (1.0, lambda x, size: _put(x, _middle(x), x[_middle(x)] + size * _noise(x))),
    "zeros": (None, lambda x, _: 0 * x),
    "clip": (0.5, lambda x, size: np.clip(x, -size * np.abs(x).max(), size * np.abs(x).max())),
}


def generic_fault(kind, event, size=None) -> Fault:
    """Return a fault that alters one event. `size` is the factor of "scale", and a share of the largest
    magnitude for other kinds."""
    default, change = GENERIC[kind]
    size = default if size is None else size
    return Fault(f"{kind}@{event}", event, (kind,), alter=lambda x: change(np.asarray(x), size))


def generic_faults(events) -> list[Fault]:
    """Return every kind of fault at every event of a run. A scalar has no rows and nothing to clip."""
    rows = ("wrong_row", "noise_row", "clip")
    return [generic_fault(k, n) for n, x in events.items() for k in GENERIC if x.ndim or k not in rows]


# Start and end of the nibbles in a block, in bytes, and the number of elements whose low halves come first
_NIBBLES = {
    "Q4_0": (2, 18, 16), "Q4_1": (4, 20, 16), "Q5_0": (6, 22, 16), "Q5_1": (8, 24, 16),
    "Q4_K": (16, 144, 32), "Q5_K": (48, 176, 32), "IQ4_NL": (2, 18, 16), "IQ4_XS": (8, 136, 16),
    "MXFP4": (1, 17, 16),
}  # fmt: skip
_OFFSETS = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")  # their second scale belongs to the minimum
_SYMMETRIC = {"Q4_0": 8, "Q5_0": 16}


def misreadings(kind):
    """Return the ways to misread a matrix of a quantisation type."""
    nibbles = ("nibbles_swapped", "nibbles_interleaved") if kind in _NIBBLES else ()
    minimum = ("minimum_ignored",) if kind in _OFFSETS else ()
    zero = ("zero_point_missing", "zero_point_off_by_one") if kind in _SYMMETRIC else ()
    codes = ("codebook_ignored",) if kind.startswith(("IQ4", "MX")) else ()
    return nibbles + minimum + zero + codes + (("scale_of_next_block",) if kind in (*SCALES, "MXFP4") else ())


def misread(blocks, how) -> np.ndarray:
    """Return the values of Blocks, [out, in] float32, read in one of `misreadings(blocks.type)`."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    size, bytes_ = GGML_QUANT_SIZES[GGMLQuantizationType[blocks.type]]
    values, raw = blocks.values(), blocks.rows.reshape(-1, bytes_).copy()
    if how == "nibbles_interleaved":
        half = _NIBBLES[blocks.type][2]
        return values.reshape(-1, 2, half).swapaxes(1, 2).reshape(values.shape)
    if how.startswith("zero_point"):
        steps = _SYMMETRIC[blocks.type] if how == "zero_point_missing" else 1
        scale = raw[:, :2].copy().view(np.float16).astype(np.float32)
        return (values.reshape(-1, size) + steps * scale).reshape(values.shape)
    if how == "codebook_ignored":
        start, stop, half = _NIBBLES[blocks.type]
        codes = raw[:, start:stop].reshape(-1, 1, half) >> np.array([[0], [4]], np.uint8) & 15
        raw[:, start:stop] = 0x88 if blocks.type != "MXFP4" else 0x11  # the code of 1, to read the scales
        scales = Blocks(blocks.type, raw.reshape(blocks.rows.shape)).values()
        return (scales * (codes.reshape(scales.shape) - 8.0)).astype(np.float32)
    if how == "nibbles_swapped":
        start, stop, _ = _NIBBLES[blocks.type]
        raw[:, start:stop] = raw[:, start:stop] >> 4 | raw[:, start:stop] << 4
    elif how == "minimum_ignored":
        at = SCALES[blocks.type][1]
        raw[:, at : at + 2] = 0
    elif blocks.type == "MXFP4":
        raw[:, 0] = np.roll(raw[:, 0], -1)
    else:
        for at in SCALES[blocks.type]:
            raw[:, at : at + 2] = np.roll(raw[:, at : at + 2], -1, 0)
    return Blocks(blocks.type, raw.reshape(blocks.rows.shape)).values()


def quantised_faults(config, weights, name) -> list[Fault]:
    """Return the faults of misreading a matrix of Blocks, one for each way."""
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    module = (rest if layer.isdigit() else name).removesuffix(".weight")
    used = [op for op in decoder_plan(config) if module in (op.options.get("by"), op.options.get("table"))]
    event = next(op.event for op in used if not layer.isdigit() or op.layer == int(layer))
    blocks = weights[name]
    return [
        Fault(f"{how}@{name}", event, ("dequantisation", how), weights={name: misread(blocks, how)})
        for how in misreadings(blocks.type)
    ]


def row_change(value, right):
    """Return the largest relative L2 change of a row."""
    value, right = (np.atleast_2d(x).astype(np.float64) for x in (value, right))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        changes = np.linalg.norm(value - right, axis=-1) / np.linalg.norm(right, axis=-1)
    return np.inf if np.isnan(changes).any() else changes.max()


def blames(diagnosis, words):
    """Return True if a finding that explains the values has one of the words."""
    claims = [f"{f.id} {f.claim}".lower() for f in diagnosis.findings if f.explains]
    return any(word.lower() in claim for word in words for claim in claims)
