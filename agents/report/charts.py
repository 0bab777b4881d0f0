"""Curves over training steps, drawn as SVG.

The numbers behind each curve travel with it, so the script can show values under the
pointer; without the script the curves are still there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .text import visible

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
Records = Sequence[Mapping[str, Any]]

# title, unit, and label -> metric name (the first that the run has).
Wanted = tuple[str, str, dict[str, tuple[str, ...]]]
CHARTS: list[Wanted] = [
    ("Held-out accuracy", "share", {"held-out": ("eval/accuracy", "eval/score")}),
    ("Training reward", "", {"mean": ("reward/mean",), "std in groups": ("reward/std",)}),
    ("Training accuracy", "share", {"accuracy": ("accuracy", "signal/accuracy")}),
    (
        "Responses with a tool call",
        "share",
        {
            "all": ("signal/tool_share",),
            "correct": ("signal/tool_share/correct",),
            "incorrect": ("signal/tool_share/incorrect",),
        },
    ),
    (
        "Calls per response",
        "",
        {
            "all": ("signal/calls",),
            "correct": ("signal/calls/correct",),
            "incorrect": ("signal/calls/incorrect",),
        },
    ),
    ("Calls without error", "share", {"all": ("signal/pass_ratio",)}),
    (
        "Tokens per response",
        "",
        {"model": ("signal/model_tokens",), "tools": ("signal/tool_tokens",)},
    ),
    (
        "Truncated and invalid",
        "share",
        {"truncated": ("signal/truncated",), "invalid": ("invalid",)},
    ),
    (
        "Groups without contrast",
        "share",
        {
            "all": ("groups/zero_variance",),
            "all right": ("groups/all_right",),
            "all wrong": ("groups/all_wrong",),
        },
    ),
]
MORE = 60  # further metrics, one chart each


@dataclass(frozen=True, slots=True)
class Series:
    label: str
    xs: list[float]
    ys: list[float]
    lows: list[float]
    highs: list[float]


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawn chart. `main` says whether it belongs to those shown first."""

    title: str
    svg: Markup
    main: bool
    latest: str
    legend: list[str]


def draw_charts(metrics: Records) -> list[Chart]:
    """The charts that the metrics have data for; every numeric metric is in one."""
    charts: list[Chart] = []
    used: set[str] = set()
    keys = _numeric(metrics)
    for title, unit, wanted in CHARTS + _beside_the_reward(metrics, keys) + _by_pattern(keys):
        series = []
        for label, names in wanted.items():
            name = next((n for n in names if n in keys), None)
            if name is not None:
                used |= {name, f"{name}_low", f"{name}_high"}
                series.append(_series(metrics, label, name))
        if series:
            charts.append(_chart(title, unit, series, main=True))
    used |= {f"{key}{end}" for key in keys for end in ("_low", "_high")}  # drawn as bands
    rest = [key for key in keys if key not in used][:MORE]
    return charts + [_chart(k, "", [_series(metrics, k, k)], main=False) for k in rest]


def _beside_the_reward(metrics: Records, keys: Sequence[str]) -> list[Wanted]:
    """Held-out reward and the first of its parts on the same scale, which need not be paid: where
    they part, the reward is being exploited."""
    parts = [k for k in keys if k.startswith("eval/part/") and not k.endswith(("_low", "_high"))]
    shares = [k for k in parts if all(0 <= r[k] <= 1 for r in metrics if k in r)][:2]
    wanted = {name.rpartition("/")[2]: (name,) for name in shares}
    return (
        [("Held-out reward and parts", "", {"reward": ("eval/score",), **wanted})] if wanted else []
    )


def _by_pattern(keys: Iterable[str]) -> list[Wanted]:
    """Charts of what learners and engines name as they like."""
    patterns = {
        "Sampler and learner mismatch": "mismatch",
        "Tokens per second": "tokens_per_s",
        "Entropy": "entropy",
        "Gradient norm": "grad_norm",
    }
    found: list[Wanted] = []
    for title, part in patterns.items():
        names = [key for key in keys if part in key][:3]
        if names:
            found.append((title, "", {name.rpartition("/")[2]: (name,) for name in names}))
    return found


def _numeric(metrics: Records) -> list[str]:
    """Names with at least one number, in the order of first appearance."""
    names: dict[str, None] = {}
    for record in metrics:
        for name, value in record.items():
            if name != "step" and math.isfinite(_number(value)):
                names[name] = None
    return list(names)


def _number(value: Any) -> float:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if ok else math.nan


def _series(metrics: Records, label: str, name: str) -> Series:
    rows = [
        (float(r["step"]), *(_number(r.get(n)) for n in (name, f"{name}_low", f"{name}_high")))
        for r in metrics
        if math.isfinite(_number(r.get(name)))
    ]
    xs, ys, lows, highs = (list(column) for column in zip(*rows, strict=True))
    return Series(label, xs, ys, lows, highs)


def _chart(title: str, unit: str, series: list[Series], *, main: bool) -> Chart:
    latest = series[0].ys[-1]
    shown = f"{100 * latest:.1f} %" if unit == "share" else _short(latest)
    return Chart(title, _svg(title, unit, series), main, shown, [s.label for s in series])


def _svg(title: str, unit: str, series: list[Series]) -> Markup:
    xs = [x for s in series for x in s.xs]
    ys = [y for s in series for y in (*s.ys, *s.lows, *s.highs) if math.isfinite(y)]
    x0, x1 = min(xs), max(xs)
    if x0 == x1:
        x0, x1 = x0 - 0.5, x1 + 0.5
    low = min(*ys, 0.0) if unit == "share" else min(ys)
    if all(y >= 0 for s in series for y in s.ys):
        low = max(low, 0.0)  # a band may reach below what the measure itself never was
    ticks = _ticks(low, max(ys))
    y0, y1 = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y1 - max(y, y0)) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    parts = [_grid(ticks, unit, at, x0), _x_labels(x0, x1, at, y0)]
    data = []
    for number, s in enumerate(series):
        points = [at(x, y) for x, y in zip(s.xs, s.ys, strict=True)]
        parts += [_band(s, number, at), _line(points, number)]
        data.append({"label": visible(s.label), "x": s.xs, "y": s.ys, "p": points, **_bounds(s)})
    summary = f"{title}: {_short(series[0].ys[0])} at first, {_short(series[0].ys[-1])} at last"
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" tabindex="0" aria-label="{label}" '
        'data-unit="{unit}" data-series="{data}">{body}</svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        label=visible(summary),
        unit=unit,
        data=json.dumps(data, separators=(",", ":")),
        body=Markup("").join(parts),
    )


def _bounds(series: Series) -> dict[str, list[float | None]]:
    if not any(map(math.isfinite, series.lows)):
        return {}
    clean = ([v if math.isfinite(v) else None for v in b] for b in (series.lows, series.highs))
    return dict(zip(("low", "high"), clean, strict=True))


def _line(points: Sequence[tuple[float, float]], number: int) -> Markup:
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = Markup("").join(
        Markup('<circle class="dot s{}" cx="{}" cy="{}" r="{}"/>').format(
            number, x, y, 2.5 if len(points) < 30 else 0
        )
        for x, y in (points if len(points) < 30 else ())
    )
    return Markup('<polyline class="line s{}" points="{}"/>').format(number, path) + dots


def _band(series: Series, number: int, at: Any) -> Markup:
    rows = [
        (x, low, high)
        for x, low, high in zip(series.xs, series.lows, series.highs, strict=True)
        if math.isfinite(low) and math.isfinite(high)
    ]
    if len(rows) < 2:
        return Markup("")
    upper = [at(x, high) for x, _, high in rows]
    lower = [at(x, low) for x, low, _ in reversed(rows)]
    path = " ".join(f"{x},{y}" for x, y in upper + lower)
    return Markup('<polygon class="band s{}" points="{}"/>').format(number, path)


def _grid(ticks: Sequence[float], unit: str, at: Any, x0: float) -> Markup:
    lines = []
    for tick in ticks:
        _, y = at(x0, tick)
        label = f"{100 * tick:.4g} %" if unit == "share" else _short(tick)
        lines.append(
            Markup(
                '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="y">{}</text>'
            ).format(LEFT, y, WIDTH - RIGHT, LEFT - 6, y + 3.5, label)
        )
    return Markup("").join(lines)


def _x_labels(x0: float, x1: float, at: Any, y0: float) -> Markup:
    ticks = [t for t in _ticks(x0, x1, whole=True) if x0 <= t <= x1]
    return Markup("").join(
        Markup('<text x="{}" y="{}" class="x">{}</text>').format(
            at(t, y0)[0], HEIGHT - 6, _short(t)
        )
        for t in ticks
    )


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers that enclose the range: about four steps of 1, 2 or 5 times 10^n."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        pad = abs(high) * 0.1
        low, high = (low - pad, high + pad) if pad else (0.0, 1.0)
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    step = max(1.0, round(step)) if whole else step
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _short(value: float) -> str:
    """Three digits or so: 0.0123, 1.5, 12.3k."""
    if value == 0 or 1e-3 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if 10_000 <= abs(value) < 1e9:
        scale, suffix = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k")
        return f"{value / scale:.3g}{suffix}"
    return f"{value:.1e}"
