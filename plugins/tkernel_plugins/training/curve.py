"""Loss curves as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_losses(history: Sequence[Mapping[str, Any]], output_dir: Path) -> list[Path]:
    """Draw `loss` and every `eval_*loss` of a trainer's `log_history`, raw and smoothed.

    Returns:
        The files written, `training_loss.png` first; none for a series of fewer than two points.
    """
    names = sorted({n for entry in history for n in entry if n.startswith("eval_") and n.endswith("loss")})
    written = []
    for name in ("loss", *names):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if len(points) > 1:
            written.append(_plot(name, points, output_dir / f"training_{name}.png"))
    return written


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its start; the longer the series, the smoother."""
    weight = 0.9 * len(values) / (len(values) + 20)
    smoothed, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        smoothed.append(total / norm)
    return smoothed


def _plot(name: str, points: Sequence[tuple[int, float]], path: Path) -> Path:
    # The Agg canvas without pyplot: no display is needed and no global backend is changed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, values = [step for step, _ in points], [value for _, value in points]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, values, color="#9ab8d8", linewidth=1, label="raw")
    axes.plot(steps, smooth(values), color="#1f5a99", linewidth=2, label="smoothed")
    axes.set(xlabel="step", ylabel=name.replace("_", " "))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path
