"""Where the texts of a figure lie once it is laid out."""

import xml.etree.ElementTree as ET
from io import BytesIO
from itertools import pairwise

from microgpt_trace.render.figures.saving import content_of


def words_in(picture):
    """The texts of a figure as a file has them."""
    found = ET.fromstring(content_of(picture, ".svg")).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()) for text in found]


def assert_nothing_is_cut_off(picture):
    """Every text lies within the figure, and no two labels of an axis on each other."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from microgpt_trace.render.figures.panel import Panel

    figure = Figure(figsize=(picture.width, picture.height), layout="constrained")
    picture.draw(Panel(figure.add_subplot()))
    figure.savefig(BytesIO(), format="png", dpi=figure.dpi)
    whole = figure.bbox.padded(1)
    bars = [ax.get_tightbbox() for ax in figure.axes if ax.get_label() == "<colorbar>"]
    for ax in figure.findobj(Axes):
        title = ax.get_title("left") and ax._left_title.get_window_extent().padded(-1)
        assert not title or not any(bar.overlaps(title) for bar in bars), ax.get_title("left")
        place = ax.get_tightbbox()
        assert whole.x0 <= place.x0 <= place.x1 <= whole.x1, ax
        assert whole.y0 <= place.y0 <= place.y1 <= whole.y1, ax
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            both = [label for tick in ticks for label in (tick.label1, tick.label2)]
            shown = [label for label in both if label.get_visible() and label.get_text()]
            places = [label.get_window_extent().padded(-1) for label in shown]
            together = any(a.overlaps(b) for a, b in pairwise(places))
            assert not together, [label.get_text() for label in shown]
            assert not axis.get_offset_text().get_text() or ax.get_label() == "<colorbar>"
