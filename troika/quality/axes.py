"""Small pictures of figures for the report, as inline SVG: one axis with interval, floor, limit and champion.

Pure functions of numbers. Every mark has a form of its own, so that no meaning hangs on colour alone.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 300
_EDGE = 10
_LANE = 13
_APART = 24
"""Numbers on an axis, at least."""

Range = tuple[float, float]
Place = Callable[[float], float]


class Point(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> Range:
        """The interval; of a figure without one, the figure."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )


def figure_axis(
    label: str,
    ours: Point,
    *,
    champion: Point | None = None,
    floor: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    domain: Range | None = None,
    bounds: Range = (-math.inf, math.inf),
    ticks: bool = True,
    logarithmic: bool = False,
    width: int = WIDTH,
) -> str:
    """One axis as an `<svg>` element; an empty string where the figure is not finite.

    Args:
        label: what a screen reader says.
        ours: a filled circle on a thick line.
        champion: an open square on a thin line below it.
        floor: the figure of real images, an open diamond.
        at_least: a limit; what lies below is shaded.
        at_most: a limit; what lies above is shaded.
        domain: what the axis spans; None: all that is drawn, and a little more.
        bounds: the axis never goes beyond, such as 0 and 1 of a share.
        ticks: whether numbers stand below the axis.
        logarithmic: the axis is so; all numbers must be above 0.
        width: CSS pixels, and units of the picture.
    """
    limit = at_most if at_least is None else at_least
    points = [point for point in (ours, champion) if point is not None]
    drawn = [number for point in points for number in (point.value, *point.ends)]
    drawn += [number for number in (floor, limit) if number is not None and math.isfinite(number)]
    if not all(map(math.isfinite, drawn)) or (logarithmic and min(drawn) <= 0):
        return ""
    if logarithmic:
        low, high = domain or _span([math.log(number) for number in drawn], (-math.inf, math.inf))
    else:
        low, high = domain or _span(drawn, bounds)

    def place(number: float) -> float:
        number = math.log(number) if logarithmic else number
        share = min(max((number - low) / (high - low), 0.0), 1.0)
        return round(_EDGE + share * (width - 2 * _EDGE), 1)

    lanes = _LANE * len(points) + 5
    height = lanes + (16 if ticks else 2)
    parts = [f'<line class="rule" x1="{_EDGE}" x2="{width - _EDGE}" y1="{lanes}" y2="{lanes}"/>']
    if limit is not None and math.isfinite(limit):
        at = place(limit)
        left, right = (0.0, at) if at_least is not None else (at, float(width))
        parts.append(f'<rect class="beyond" x="{left}" y="0" width="{round(right - left, 1)}" height="{lanes}"/>')
        parts.append(f'<line class="limit" x1="{at}" x2="{at}" y1="0" y2="{lanes + 3}"/>')
    if ticks:
        parts += _ticks(low, high, lanes, place, width, logarithmic=logarithmic)
    middle = 2 + _LANE / 2
    if floor is not None and math.isfinite(floor):
        at = place(floor)
        parts.append(f'<path class="floor" d="M{at} {middle - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>')
    parts += _point(ours, middle, place, "ours")
    if champion is not None:
        parts += _point(champion, middle + _LANE, place, "theirs")
    return (
        f'<svg class="axis" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"<title>{escape(label)}</title>{''.join(parts)}</svg>"
    )


def _point(point: Point, y: float, place: Place, kind: str) -> list[str]:
    left, right = (place(end) for end in point.ends)
    at = place(point.value)
    mark = (
        f'<circle class="{kind}" cx="{at}" cy="{y}" r="4.5"/>'
        if kind == "ours"
        else f'<rect class="{kind}" x="{at - 3.5}" y="{y - 3.5}" width="7" height="7"/>'
    )
    return [f'<line class="{kind}" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>', mark]


def _span(numbers: Sequence[float], bounds: Range) -> Range:
    """All of them and a tenth more on each side, within bounds."""
    low, high = min(numbers), max(numbers)
    extra = 0.1 * (high - low) or 0.05 * abs(high) or 0.5
    return max(low - extra, min(bounds[0], low)), min(high + extra, max(bounds[1], high))


def _ticks(low: float, high: float, y: int, place: Place, width: int, *, logarithmic: bool) -> list[str]:
    parts: list[str] = []
    taken: list[float] = []
    for number in _log_numbers(low, high) if logarithmic else _round_numbers(low, high):
        at = place(number)
        if any(abs(at - other) < _APART for other in taken):
            continue
        taken.append(at)
        parts.append(f'<line class="rule" x1="{at}" x2="{at}" y1="{y}" y2="{y + 3}"/>')
        text = f"{number:.4g}".replace("-", "\N{MINUS SIGN}")
        # Whole in the picture even at its edge.
        anchor = "start" if at < 20 else "end" if at > width - 20 else "middle"
        parts.append(f'<text x="{at}" y="{y + 14}" text-anchor="{anchor}">{text}</text>')
    return parts


def _round_numbers(low: float, high: float) -> list[float]:
    """Up to six multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    # A sum of steps would print 0.30000000000000004, and -0 for 0.
    return [number * step + 0.0 for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_numbers(low: float, high: float) -> list[float]:
    """Ratios that people know, the most welcome first."""
    near = [1.0, 0.5, 2.0, 0.1, 10.0, 0.8, 1.25, 0.25, 4.0, 0.01, 100.0, 0.9, 1.1, 0.95, 1.05]
    return [number for number in near if low <= math.log(number) <= high]
