"""Line plots as SVG, readable on light and dark pages; not a plotting library: logarithmic axes, and whiskers from least to most."""

import math
from statistics import median
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 560, 380
"""Narrow, with large letters: a phone shows the whole width. The names are below the plot, a line each."""
LEFT, RIGHT, TOP, BOTTOM = 80, 32, 46, 56
NAME = 24
LIGHT = ("#0550ae", "#bc4c00", "#116329", "#8250df", "#9a6700", "#57606a", "#a40e26")
DARK = ("#79c0ff", "#ffa657", "#7ee787", "#d2a8ff", "#e3b341", "#b1bac4", "#ff7b72")


def colours(paper, text, quiet, grid, series):
    rules = [f".paper {{ fill: {paper}; }} text {{ fill: {text}; }} .quiet {{ fill: {quiet}; }} .grid {{ stroke: {grid}; }}"]
    for index, colour in enumerate(series):
        rules.append(f".s{index} .line, .s{index} .whisker {{ stroke: {colour}; }} .s{index} .dot, .s{index}.name {{ fill: {colour}; }}")
    return "\n".join(rules)


STYLE = f"""
svg {{ font: 16px system-ui, sans-serif; }} .name {{ font-weight: 600; }}
.line {{ fill: none; stroke-width: 2; }} .strong .line {{ stroke-width: 3.5; }} .whisker {{ stroke-width: 1.2; }}
{colours("#ffffff", "#24292f", "#57606a", "#d8dee4", LIGHT)}
@media (prefers-color-scheme: dark) {{
{colours("#0d1117", "#e6edf3", "#9198a1", "#30363d", DARK)}
}}
"""


def number(value, unit):
    """A value as a person reads it; seconds get the unit that fits."""
    if unit != "s":
        return f"{value:,.0f} {unit}".strip()
    for factor, name in ((1, "s"), (1e3, "ms")):
        if value * factor >= 0.9999:
            return f"{value * factor:,.3g} {name}".replace("e+02", "00")
    return f"{value * 1e6:.3g} µs"


def lines(title, series, unit):
    """A picture of series, each a name and a dictionary from size to values; the agent's own is drawn stronger."""
    sizes = sorted({size for _, points in series for size in points})
    values = [value for _, points in series for some in points.values() for value in some if value > 0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    first, last = math.log10(sizes[0]), math.log10(sizes[-1])

    def across(size):
        return LEFT + (math.log10(size) - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)

    def up(value):
        return HEIGHT - BOTTOM - (math.log10(max(value, 10**low)) - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    height = HEIGHT + NAME * len(series) + 8
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<style>{STYLE}</style><rect class="paper" width="{WIDTH}" height="{height}"/>',
        f'<text x="{LEFT}" y="24" font-size="17" font-weight="600">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        y = up(10**power)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="quiet" x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{number(10**power, unit)}</text>')
    for size in sizes:
        x = across(size)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text class="quiet" x="{x:.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">{size:,}</text>')
    out.append(f'<text class="quiet" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">prefixes</text>')
    names = []
    for index, (name, points) in enumerate(series):
        middles = [(size, median(points[size])) for size in sorted(points)]
        path = " ".join(f"{across(size):.1f},{up(value):.1f}" for size, value in middles)
        out.append(f'<g class="s{index}{" strong" if name == "egress-routes" else ""}"><polyline class="line" points="{path}"/>')
        for size, value in middles:
            x, least, most = across(size), min(points[size]), max(points[size])
            out.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{up(least):.1f}" y2="{up(most):.1f}"/>')
            out.append(f'<circle class="dot" cx="{x:.1f}" cy="{up(value):.1f}" r="3"/>')
        out.append("</g>")
        size, value = middles[-1]
        names.append((up(value), index, f"{name}, {number(value, unit)}"))
    names.sort()
    for place, (_, index, name) in enumerate(names):
        y = HEIGHT + NAME * (place + 0.5)
        out.append(f'<g class="s{index}"><line class="line" x1="16" x2="48" y1="{y}" y2="{y}"/></g>')
        out.append(f'<text class="s{index} name" x="60" y="{y + 5}">{escape(name)}</text>')
    listed = "; ".join(name for *_, name in names)
    out.insert(2, f"<desc>By number of prefixes, both axes logarithmic. Medians at the largest number: {escape(listed)}.</desc>")
    return "\n".join([*out, "</svg>"]) + "\n"
