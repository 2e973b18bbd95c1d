"""Plots, as SVG that is written by hand."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_OURS, _OTHERS = "#1f6feb", "#9aa4b2"
_COLOURS = ("#1f6feb", "#d97706", "#2da44e", "#a371f7", "#57606a")
_STYLE = "font-family: system-ui, sans-serif; font-size: 13px"


def bars(path: Path, title: str, unit: str, values: Sequence[tuple[str, float, str]]) -> None:
    """Draw a horizontal bar for each (name, value, remark); longer is better."""
    left, full, height = 270, 480, 44
    largest = max(value for _, value, _ in values)
    parts = [_text(10, 22, title, weight="bold")]
    for number, (name, value, remark) in enumerate(values):
        y = 40 + number * height
        colour = _OURS if name == "pkgstore" else _OTHERS
        width = max(1.0, full * value / largest)
        parts += [
            _text(left - 8, y + 15, name, anchor="end"),
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="20" fill="{colour}"/>',
            _text(left + width + 8, y + 15, f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"),
            _text(left, y + 35, remark, colour="#57606a"),
        ]
    _write(path, left + full + 160, 52 + height * len(values), parts)


def curves(path: Path, title: str, across: str, up: str, lines: Mapping[str, Mapping[int, float]]) -> None:
    """Draw lines through points, on two logarithmic axes."""
    left, top, width, height = 80, 60, 560, 320
    across_all = [x for points in lines.values() for x in points]
    up_all = [y for points in lines.values() for y in points.values()]
    low_x, high_x = math.log10(min(across_all)), math.log10(max(across_all))
    low_y, high_y = math.floor(math.log10(min(up_all))), math.ceil(math.log10(max(up_all)))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + width * (math.log10(x) - low_x) / ((high_x - low_x) or 1),
            top + height * (1 - (math.log10(y) - low_y) / ((high_y - low_y) or 1)),
        )

    parts = [_text(10, 22, title, weight="bold")]
    for power in range(low_y, high_y + 1):
        _, y = at(min(across_all), 10.0**power)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#d0d7de"/>')
        parts.append(_text(left - 8, y + 4, f"10^{power}", anchor="end"))
    for x in sorted(set(across_all)):
        place, _ = at(x, 10.0**low_y)
        parts.append(_text(place, top + height + 18, f"{x:,}", anchor="middle"))
    free = top + height + 20.0
    # From the lowest line up, so that each name can be moved above the one below it.
    for number, (name, points) in enumerate(sorted(lines.items(), key=lambda line: line[1][max(line[1])])):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [at(x, y) for x, y in sorted(points.items())]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        free = min(places[-1][1] + 4, free - 16)
        parts.append(_text(places[-1][0] + 10, free, name, colour=colour))
    parts.append(_text(left + width / 2, top + height + 38, across, anchor="middle"))
    parts.append(_text(left, top - 6, up, colour="#57606a"))
    _write(path, left + width + 220, top + height + 52, parts)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = "#1f2328"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _write(path: Path, width: int, height: int, parts: Sequence[str]) -> None:
    body = "\n".join(parts)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' style="{_STYLE}">\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )
