"""Results as a table, as medians, and as a chart."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from .contenders import CONTENDERS, Result

# Colours that can be read on white and on the nearly black of GitHub's dark theme.
TEXT, OURS, OTHERS = "#768390", "#c4782e", "#a3a9b1"

__all__ = ["chart", "instructions_table", "median_of", "table"]


def median_of(rounds: Sequence[Result]) -> Result:
    """Returns the median of each figure."""
    return Result(**{f.name: statistics.median(getattr(result, f.name) for result in rounds) for f in fields(Result)})


def table(results: Mapping[str, Result]) -> str:
    """Returns what was measured on one page, as Markdown."""
    plain, hand = results.get("none"), results.get("hand-motor")
    lines = [
        "| | requests/s | to no session | to Motor by hand | commands | CPU | MongoDB's CPU | p50 | p99 | sent |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, result in results.items():
        ratios = [f"{result.rate / base.rate:.2f}x" if base else "" for base in (plain, hand)]
        lines.append(
            f"| {CONTENDERS.get(name, name)} | {result.rate:,.0f} | {' | '.join(ratios)} | {result.commands:.2f} "
            f"| {result.cpu:.0f} us | {result.database:.0f} us | {result.p50:.2f} ms | {result.p99:.2f} ms "
            f"| {result.sent:,.0f} B |"
        )
    return "\n".join(lines)


def instructions_table(counted: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the thousands of instructions of a request of each page, by contender, as Markdown."""
    pages = list(next(iter(counted.values())))
    lines = [f"| | {' | '.join(f'{page} | to no session' for page in pages)} |", f"|---|{'--:|' * 2 * len(pages)}"]
    for name, by_page in counted.items():
        cells = []
        for page in pages:
            base = counted.get("none", {}).get(page)
            cells.append(f"{by_page[page]:,.0f} | {f'{base / by_page[page]:.2f}x' if base else ''}")
        lines.append(f"| {CONTENDERS[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(medians: Mapping[tuple[str, int], Mapping[str, Result]], path: Path) -> None:
    """Draws the rates of each page at its largest number of connections, for a light and for a dark background."""
    from matplotlib import pyplot

    largest: dict[str, int] = {}
    for page, connections in medians:
        largest[page] = max(connections, largest.get(page, 0))
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sesame"})
    pyplot.rcParams.update(dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT))
    figure, axes = pyplot.subplots(1, len(largest), figsize=(4.5 * len(largest), 3.4), sharey=True, squeeze=False)
    for axis, (page, connections) in zip(axes[0], largest.items(), strict=True):
        by_contender = medians[page, connections]
        names = [CONTENDERS[name] for name in by_contender]
        colors = [OURS if name.startswith("sesame") else OTHERS for name in by_contender]
        bars = axis.barh(names, [result.rate for result in by_contender.values()], color=colors)
        axis.bar_label(bars, fmt="{:,.0f}", padding=3)
        axis.set_title(f"{page}, {connections} connections")
        axis.set_xlabel("requests a second")
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.margins(x=0.2)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None)
