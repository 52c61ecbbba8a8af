"""The sweep of a commit draws some of the cases that do not always run; many sweeps together draw all."""

from types import SimpleNamespace

from support.sweeps import leave_out_of_sweep, some_of

CASES = some_of(range(400), every=100, sweep=4)


def drawn(draw):
    """Return the numbers of the cases in the sweep that this word draws."""
    added = [[] for _ in CASES]
    items = [
        SimpleNamespace(nodeid=f"case {at}", iter_markers=lambda name, own=own: own, add_marker=more.append)
        for at, (own, more) in enumerate(zip([getattr(c, "marks", ()) for c in CASES], added, strict=True))
    ]
    leave_out_of_sweep(items, draw)
    return {at for at, more in enumerate(added) if more != ["rest"]}


def test_a_sweep_draws_a_share_and_sweeps_of_many_commits_draw_all():
    assert [case for case in CASES if not hasattr(case, "marks")] == [0, 100, 200, 300]
    sweeps = [drawn(draw) for draw in range(40)]
    assert all({0, 100, 200, 300} <= sweep and 70 < len(sweep) < 140 for sweep in sweeps)
    assert set().union(*sweeps) == {*range(400)}
    assert drawn(1) == sweeps[1] != sweeps[2]
