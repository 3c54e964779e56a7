"""The plots of the results, as SVG."""

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt  # after the choice above

from benchmarks.case import Case, connections
from benchmarks.cases import find
from benchmarks.results import Results
from benchmarks.table import FIGURES

mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "getm", "font.size": 9, "lines.markersize": 4}
mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
COLUMNS = 3
STYLES = ["o-", "o--", "o:"]  # of one peer that is used in several ways
COLOURS = {"getm": "#cc3311", "limit": "#999999"}
OTHERS = ["#4477aa", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997700", "#555555", "#99ddaa", "#004488", "#ddaa33"]


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what there is, and return the files."""
    cases = find(run.case for run in results.runs if run.failure is None)
    groups = dict.fromkeys(case.group for case in cases)
    bars = [(f"bars-{group}", _bars, [case for case in cases if case.group == group]) for group in groups]
    whole = [("concurrency", _concurrency, cases), ("latencies", _latencies, cases), ("growth", _growth, cases)]
    drawn = []
    for name, plot, shown in [*whole, *bars]:
        path = folder / f"{name}.svg"
        path.unlink(missing_ok=True)
        if plot(shown, results):
            plt.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), bbox_inches="tight")
            _shrink(path)
            drawn.append(path)
        plt.close("all")
    return drawn


def _shrink(path: Path) -> None:
    """Leave out what nobody sees: comments, margins, and all but two decimals."""
    text = re.sub(r"<!--.*?-->|^ +", "", path.read_text(), flags=re.MULTILINE)
    path.write_text(re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\n+", "\n", text)))


def _concurrency(cases: list[Case], results: Results) -> bool:
    """Draw throughput over connections, with what so many connections give."""
    shown = [case for case in cases if case.axis == "connections"]
    for case in shown:
        _, panel = plt.subplots(figsize=(6, 3.6))
        for number, peer in enumerate(case.peers):
            points, seconds = _line(case, peer, "seconds", results)
            panel.plot(
                points, [case.content.size / value / 1e6 for value in seconds], "o-", color=_colour(peer, number), label=peer
            )
        all_points = results.points(case.name)
        rates = [case.content.size / connections(point, case.content.size) / 1e6 for point in all_points]
        panel.plot(all_points, rates, ":", color="black", linewidth=0.8, label="connections' rate")
        panel.set(title=case.name, xlabel="connections", ylabel="MB/s", xscale="log", ylim=(0, None))
        panel.set_xticks(all_points, [str(point) for point in all_points])
        panel.minorticks_off()
        panel.legend()
    return bool(shown)


def _latencies(cases: list[Case], results: Results) -> bool:
    """Draw how many of the random reads took at most how long."""
    shown = [case for case in cases if case.figure == "p50"]
    for case in shown:
        _, panel = plt.subplots(figsize=(6, 3.6))
        for number, peer in enumerate(case.peers):
            times = sorted(time * 1e3 for run in results.of(case.name, peer) for time in run.latencies)
            if times:
                shares = [(rank + 1) / len(times) for rank in range(len(times))]
                panel.step(times, shares, where="post", color=_colour(peer, number), label=peer, linewidth=1.2)
        panel.set(title=case.name, xlabel="ms", ylabel="share of reads", xscale="log", ylim=(0, 1.02), xlim=(10, None))
        panel.legend(fontsize=7)
    return bool(shown)


def _bars(cases: list[Case], results: Results) -> bool:
    """Draw the figure of each peer, a panel for each case."""
    shown = [case for case in cases if not case.axis]
    if not shown:
        return False
    columns = min(COLUMNS, len(shown))
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    heights = [max(len(case.peers) for case in row) * 0.17 + 0.6 for row in rows]
    _, panels = plt.subplots(
        len(rows), columns, figsize=(4.3 * columns, sum(heights)), squeeze=False, height_ratios=heights, layout="constrained"
    )
    for panel, case in zip(panels.flat, shown, strict=False):
        medians = {peer: results.median(case.name, peer, case.figure) for peer in case.peers}
        found = sorted(((value, peer) for peer, value in medians.items() if value is not None), reverse=True)
        figure = FIGURES[case.figure]
        colours = [_colour(peer, 0) for _, peer in found]
        bars = panel.barh([peer for _, peer in found], [value / figure.one for value, _ in found], color=colours)
        panel.bar_label(bars, fmt=f"%.{figure.digits}f", fontsize=6, padding=2)
        panel.set_title(case.name, fontsize=9)
        panel.set_xlabel(f"{case.figure}, {figure.unit}" if case.figure.startswith("p") else figure.unit)
        panel.tick_params(axis="y", labelsize=7)
    for panel in panels.flat[len(shown) :]:
        panel.axis("off")
    return True


def _growth(cases: list[Case], results: Results) -> bool:
    """Draw what grows as something else does, a panel for each case."""
    shown = [case for case in cases if case.axis and case.axis != "connections"]
    if not shown:
        return False
    rows = -(-len(shown) // COLUMNS)
    _, panels = plt.subplots(rows, COLUMNS, figsize=(13, 3.2 * rows), squeeze=False, layout="constrained")
    for panel, case in zip(panels.flat, shown, strict=False):
        figure = FIGURES[case.figure]
        for number, peer in enumerate(case.peers):
            points, values = _line(case, peer, case.figure, results)
            style = STYLES[sum(other.split()[0] == peer.split()[0] for other in case.peers[:number]) % len(STYLES)]
            if not points:
                continue
            panel.plot(points, [value / figure.one for value in values], style, color=_colour(peer, number), label=peer)
        all_points = results.points(case.name)
        scale = "log" if max(all_points) > 20 * min(all_points) else "linear"
        label = case.figure if " " in case.figure else figure.unit
        panel.set(xlabel=case.axis, ylabel=label, xscale=scale)
        if scale == "log" and case.figure == "seconds":
            panel.set_yscale("log")
        else:
            panel.set_ylim(0, None)
        panel.set_title(case.name, fontsize=9)
        panel.legend(fontsize=7)
    for panel in panels.flat[len(shown) :]:
        panel.axis("off")
    return True


def _line(case: Case, peer: str, figure: str, results: Results) -> tuple[list[int], list[float]]:
    """Return the points of the axis at which there is a figure, and the figures."""
    found = [(point, results.median(case.name, peer, figure, point)) for point in results.points(case.name, peer)]
    found = [(point, value) for point, value in found if value is not None]
    return [point for point, _ in found], [value for _, value in found]


def _colour(peer: str, number: int) -> str:
    """Return a colour that is getm's, the limit's, or another's by its number."""
    name = peer.partition(" ")[0]
    return COLOURS.get(name, OTHERS[number % len(OTHERS)])
