"""A tiny Qwen3 with experts in layers 0 and 2, written without torch, and a judge of the choices."""

import math

import numpy as np
from support.tiny_models import random_weights, rope_5, tiny_config, write_folder

WIDTH, INNER, EXPERTS, CHOSEN, DENSE = 32, 14, 6, 2, 1
CONFIG = tiny_config("qwen3", num_hidden_layers=3, head_dim=12, **rope_5(1e6)) | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": EXPERTS,
    "num_experts_per_tok": CHOSEN, "moe_intermediate_size": INNER, "norm_topk_prob": True,
    "mlp_only_layers": [DENSE], "decoder_sparse_step": 1,
}  # fmt: skip


def write_experts(folder):
    """Write the model with random weights to a folder, and return the folder."""
    weights = random_weights(CONFIG | {"model_type": "qwen3"}, "experts")
    rng = np.random.RandomState(7)
    for layer in (0, 2):
        prefix = f"model.layers.{layer}.mlp"
        shapes = {"gate": (EXPERTS, WIDTH)}
        for e in range(EXPERTS):
            for name, shape in (("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))):
                weights.pop(f"{prefix}.{name}_proj.weight", None)
                shapes[f"experts.{e}.{name}_proj"] = shape
        for name, shape in shapes.items():
            normal = rng.standard_normal(shape) * 1.5 / shape[1] ** 0.5
            weights[f"{prefix}.{name}.weight"] = normal.astype(np.float32)
    return write_folder(folder, CONFIG, weights)


def bf16(x):
    """Round a positive or negative number to 8 significant bits."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(round(mantissa * 256), exponent - 8)


def bits(shares):
    return -math.fsum(share * math.log2(share) for share in shares if share > 0)


def judged(logits):
    """Return the load, the margin of each position with the two experts, and the positions tied in bf16."""
    load, rows, tied = [0] * EXPERTS, [], []
    for t, row in enumerate(logits.astype(float).tolist()):
        order = sorted(range(EXPERTS), key=lambda e: (-row[e], e))
        for expert in order[:CHOSEN]:
            load[expert] += 1
        last, other = order[CHOSEN - 1 : CHOSEN + 1]
        rows.append((row[last] - row[other], t, last, other))
        tied += [t] * (bf16(row[last]) == bf16(row[other]))
    return load, rows, tied
