"""Whether what is written on a figure can be read."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg


def texts_of(figure):
    """What is written on a figure, with its box in pixels; of ticks only those in view."""
    parts = [figure, *figure.subfigs]
    found = [text for part in parts for legend in part.legends for text in legend.get_texts()]
    found += [text for part in parts for text in (part._suptitle, part._supxlabel) if text is not None]
    for axes in figure.axes:
        found += [axes.title, *axes.texts] + (legend.get_texts() if (legend := axes.get_legend()) else [])
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = (*axis.get_major_ticks(), *axis.get_minor_ticks())
            found += [axis.label] + [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    drawn = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in drawn]


def assert_legible(figure):
    """All text lies on the page, and none on other text."""
    FigureCanvasAgg(figure).draw()
    texts = texts_of(figure)
    for text, box in texts:
        assert figure.bbox.padded(1).containsx(box.x0) and figure.bbox.padded(1).containsx(box.x1), text
        assert figure.bbox.padded(1).containsy(box.y0) and figure.bbox.padded(1).containsy(box.y1), text
    for (one, box), (other, its) in itertools.combinations(texts, 2):
        assert not box.shrunk(0.95, 0.9).overlaps(its.shrunk(0.95, 0.9)), (one, other)
