"""Pictures of a report: histograms as inline SVG, samples as data URIs."""

import base64
import io
import re
from collections.abc import Sequence

import matplotlib
import PIL.Image
import torch
from jaxtyping import Float64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

BINS = 60
PICTURE_SIDE = 128
"""Pixels; larger pictures are made smaller."""

_INK, _INSPECTED, _CALIBRATION, _FLAGGED = "#010101", "#010102", "#010103", "#010104"
_THEME = {
    _INK: "currentColor",
    _INSPECTED: "var(--inspected)",
    _CALIBRATION: "var(--calibration)",
    _FLAGGED: "var(--flagged)",
}
"""Colours are written as stand-ins, and left to the style sheet: it knows light and dark."""


def histogram(
    inspected: Float64[Tensor, " inspected"],
    calibration: Float64[Tensor, " calibration"],
    flagged: Float64[Tensor, " flagged"],
    *,
    name: str,
) -> str:
    """Draw how scores are distributed, on a logarithmic scale of counts.

    Args:
        inspected: scores of the samples that were not flagged.
        calibration: scores of trusted samples.
        flagged: scores of flagged samples; the lowest is marked.
        name: told apart from the other figures of the page by this.

    Returns:
        An `<svg>` element for an HTML page that defines `--inspected`, `--calibration` and
        `--flagged`; empty where there is no finite score.
    """
    groups = [scores[scores.isfinite()] for scores in (inspected, calibration, flagged)]
    everything = torch.cat(groups)
    if not len(everything):
        return ""
    edges = _edges(everything.min().item(), everything.max().item())
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(7.6, 2.6))
        axes = figure.add_axes((0.09, 0.2, 0.9, 0.77))
        _draw(axes, groups, edges)
        return _drawn(figure)


def scatter(
    plain: Float64[Tensor, "plain 2"], marked: Float64[Tensor, "marked 2"], *, name: str
) -> str:
    """Draw two clouds of points, the second as crosses.

    Args:
        plain: drawn as discs.
        marked: drawn as crosses, on top.
        name: told apart from the other figures of the page by this.

    Returns:
        An `<svg>` element, as `histogram` gives.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(7.6, 2.6))
        axes = figure.add_axes((0.09, 0.2, 0.9, 0.77))
        axes.scatter(plain[:, 0].numpy(), plain[:, 1].numpy(), s=14, color=_INSPECTED, linewidths=0)
        axes.scatter(
            marked[:, 0].numpy(),
            marked[:, 1].numpy(),
            s=18,
            color=_FLAGGED,
            marker="x",
            linewidths=1,
        )
        axes.set_xlabel("first direction", color=_INK)
        axes.set_ylabel("second direction", color=_INK)
        _plain(axes)
        return _drawn(figure)


def _drawn(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue())


def _edges(low: float, high: float) -> list[float]:
    high = high if high > low else low + max(abs(low), 1.0)
    return torch.linspace(low, high, BINS + 1, dtype=torch.float64).tolist()


def _draw(axes: Axes, groups: Sequence[Tensor], edges: Sequence[float]) -> None:
    inspected, calibration, flagged = (scores.numpy() for scores in groups)
    axes.hist(inspected, edges, color=_INSPECTED, histtype="stepfilled", linewidth=0)
    if len(flagged):
        axes.hist(
            flagged, edges, fill=False, edgecolor=_FLAGGED, hatch="////", histtype="stepfilled"
        )
        axes.axvline(flagged.min(), color=_INK, linestyle="--", linewidth=1.2)
    if len(calibration):
        axes.hist(calibration, edges, color=_CALIBRATION, histtype="step", linewidth=1.6)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter(_count)
    axes.set_xlabel("poison score (higher is more suspicious)", color=_INK)
    axes.set_ylabel("samples (log scale)", color=_INK)
    axes.minorticks_off()
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(colors=_INK)
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in {"left", "bottom"})


def _count(value: float, _: float | int) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3), ("", 1.0)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return ""


def _inline(svg: str) -> str:
    """Make a file's SVG fit to stand in a page: no header, no style, no names, themed."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for stand_in, colour in _THEME.items():
        svg = svg.replace(stand_in, colour)
    return svg


def data_uri(image: UInt8[Tensor, "channels height width"]) -> str:
    """Turn an image into a PNG that stands in the page itself.

    Images of one channel are grey; of the others, the first three channels are red, green, blue.
    """
    channels = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    picture = PIL.Image.fromarray(channels.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
