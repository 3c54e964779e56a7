"""The plots of the results, as SVG."""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt  # after the choice above

from benchmarks.cases import Case, find
from benchmarks.results import Results
from benchmarks.table import FIGURES

mpl.rcParams |= {
    "svg.fonttype": "none",
    "svg.hashsalt": "getm",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
OTHERS = ["#4477aa", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997700", "#555555", "#99ddaa", "#004488"]


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what there is, and return the files."""
    cases = find(run.case for run in results.runs if run.failure is None)
    drawn = []
    for path, plot in ((folder / "bars.svg", _bars),):
        if plot(cases, results):
            plt.savefig(path, metadata={"Date": None}, bbox_inches="tight")
            drawn.append(path)
        plt.close("all")
    return drawn


def _bars(cases: list[Case], results: Results) -> bool:
    """Draw the figure of each peer, a panel for each case."""
    shown = [case for case in cases if not case.axis]
    columns = 3
    rows = -(-len(shown) // columns)
    heights = [max(len(case.peers) for case in shown[row * columns : (row + 1) * columns]) for row in range(rows)]
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(11, sum(heights) * 0.19 + rows * 0.8),
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for panel, case in zip(panels.flat, shown, strict=False):
        _bar_panel(panel, case, results)
    for panel in panels.flat[len(shown) :]:
        panel.axis("off")
    return bool(shown)


def _bar_panel(panel: plt.Axes, case: Case, results: Results) -> None:
    medians = {peer: results.median(case.name, peer, case.figure) for peer in case.peers}
    found = sorted(((value, peer) for peer, value in medians.items() if value is not None), reverse=True)
    one = FIGURES[case.figure].one
    panel.barh([peer for _, peer in found], [value / one for value, _ in found], color=[_colour(peer) for _, peer in found])
    panel.set_title(case.name, fontsize=9)
    panel.set_xlabel(f"{case.figure if case.figure != 'seconds' else ''} {FIGURES[case.figure].unit}".strip())


def _colour(peer: str) -> str:
    return {"getm": "#cc3311", "limit": "#bbbbbb"}.get(peer.split(maxsplit=1)[0], "#4477aa")
