"""Every architecture and a flipped router against recorded values of transformers.

No judge has to be installed, so that the quickest run of the tests judges every architecture too.
"""

import numpy as np
import pytest
from support.commands import microgpt
from support.reference_models import IDS, cases, reference_folder, reference_values, router_dump
from support.sweeps import in_sweep

from microgpt_trace import load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.diagnosis.diagnose import diagnose


@pytest.mark.parametrize("case", cases())
def test_logits_and_stream_equal_those_of_transformers(case, tmp_path):
    run = trace(load(reference_folder(case, tmp_path)), tokens=IDS, positions="all", names=["*"], values=True)
    for event, expected in reference_values(case).items():
        error = np.linalg.norm(run[event] - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        print(case, event, f"{error.max():.1e}")
        assert error.max() < 1e-4


@pytest.mark.parametrize(("dump", "first"), [in_sweep(("right", None)), ("wrong", "layer1.mlp.chosen")])
def test_a_flip_of_a_router_by_pytorch_in_bfloat16(dump, first, tmp_path):
    """diff and diagnose explain the flip by rounding, and name a wrong choice after it."""
    model, path = reference_folder("eight_experts", tmp_path), router_dump(dump, tmp_path / "d.safetensors")
    found, own = diff(model, path, compute="bf16"), diagnose(path, model, compute="bf16").diagnosis
    flip = found.routing[0]
    print(flip, found.first, own.first_wrong, found.consequences)
    assert (flip.layer, flip.by_rounding) == (0, True)
    assert 0 < flip.margin < flip.explained
    assert found.first == own.first_wrong == first
    assert microgpt("diff", model, path, "--compute", "bf16").code == (first is not None)
    exact = diff(model, path, compute="f32").routing[0]
    assert not exact.by_rounding
    assert exact.explained < exact.margin == pytest.approx(flip.margin)
