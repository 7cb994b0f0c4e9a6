# SPDX-License-Identifier: Apache-2.0
"""The picture of the demo: pauses of the first workload, and what each workload cost in all."""

import math
from xml.sax.saxutils import escape

COLOURS = {"full": "#8d8d93", "mprotect": "#d1782f", "softdirty": "#4a7fc4", "gc-dirty": "#63b79a",
           "dune": "#12805a"}
INK, FAINT, RULE = "#1f2328", "#6a737d", "#e3e6ea"
WIDTH, MARGIN = 900, 28
LEFT = 215  # of both plots: names stand before it
PER_DECADE = 12  # columns of the histogram


class Svg:
    """Shapes with the few attributes that this picture needs."""

    def __init__(self):
        self.parts = []

    def text(self, x, y, text, size=13, colour=INK, anchor="start", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
                          f'font-weight="{weight}">{escape(text)}</text>')

    def bar(self, x, y, width, height, colour, opacity=1.0):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5" '
                          f'fill="{colour}" fill-opacity="{opacity}"/>')

    def line(self, x1, y1, x2, y2, colour=RULE, dashes=""):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"'
                          + (f' stroke-dasharray="{dashes}"' if dashes else "") + "/>")

    def document(self, height):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
                f'font-family="DejaVu Sans, Helvetica, Arial, sans-serif">\n'
                f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="#ffffff"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def short(value):
    """1.6 M"""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def draw_pauses(svg, y, runs, modes, unit):
    """One histogram per mode over the same logarithmic axis; returns where it ends."""
    row, space = 44, 20
    right = WIDTH - MARGIN - 10
    shortest = min(min(run["pauses"]) for run in runs.values())
    longest = max(run["longest"] for run in runs.values())
    low, high = math.floor(math.log10(shortest) * 2) / 2, math.ceil(math.log10(longest) * 4 + 0.5) / 4
    column = (right - LEFT) / ((high - low) * PER_DECADE)

    def place(value):
        return LEFT + (math.log10(value) - low) / (high - low) * (right - LEFT)

    counts = {mode: {} for mode in runs}
    for mode, run in runs.items():
        for pause in run["pauses"]:
            at = math.floor((math.log10(pause) - low) * PER_DECADE)
            counts[mode][at] = counts[mode].get(at, 0) + 1
    highest = max(max(c.values()) for c in counts.values())
    bottom = y + len(runs) * (row + space)
    for decade in range(math.ceil(low), math.floor(high) + 1):
        for step in (1, 2, 5):
            value = step * 10 ** decade
            if low <= math.log10(value) <= high:
                svg.line(place(value), y, place(value), bottom)
                svg.text(place(value), bottom + 18, short(value), 11, FAINT, "middle")
    svg.text((LEFT + right) / 2, bottom + 36, f"length of a pause, {unit} (logarithmic); height: how many", 12, FAINT, "middle")
    for mode, run in runs.items():
        base = y + row + space - 4
        svg.line(LEFT, base, right, base, "#c9ced4")
        svg.text(LEFT - 12, base - 20, modes[mode], 13, INK, "end", "bold" if mode == "dune" else "normal")
        svg.text(LEFT - 12, base - 5, f"{run['stops']} pauses", 11, FAINT, "end")
        for at, count in counts[mode].items():
            height = max(3, count / highest * row)
            svg.bar(LEFT + at * column + 1, base - height, column - 2, height, COLOURS[mode])
        x = place(run["longest"])
        svg.line(x, base, x, base - row - 4, COLOURS[mode], "3 3")
        end = x > right - 110
        svg.text(x - 6 if end else x + 6, base - row + 6, f"longest {short(run['longest'])}", 12, COLOURS[mode],
                 "end" if end else "start", "bold")
        y += row + space
    return bottom + 44


def draw_totals(svg, y, all_runs, modes, unit):
    """Bars by workload, as parts of what stopping the world costs."""
    thick, gap = 15, 22
    right = WIDTH - MARGIN - 70
    most = max(run["ticks"] / runs["full"]["ticks"] for runs in all_runs.values() for run in runs.values())
    scale = (right - LEFT) / most
    height = sum(thick * len(runs) + gap for runs in all_runs.values()) - gap
    svg.line(LEFT + scale, y - 6, LEFT + scale, y + height + 6, FAINT, "2 3")
    for workload, runs in all_runs.items():
        svg.text(LEFT - 12, y + thick * len(runs) / 2 + 4, workload.replace("_", " "), 13, INK, "end")
        for mode, run in runs.items():
            part = scale / runs["full"]["ticks"]
            svg.bar(LEFT, y + 1, run["ticks"] * part, thick - 2, COLOURS[mode], 0.45)
            svg.bar(LEFT, y + 1, run["stopped"] * part, thick - 2, COLOURS[mode])
            svg.text(LEFT + run["ticks"] * part + 6, y + thick - 4, short(run["ticks"]), 11,
                     INK if mode == "dune" else FAINT, "start", "bold" if mode == "dune" else "normal")
            y += thick
        y += gap
    y -= gap
    x = MARGIN
    for mode, name in modes.items():
        svg.bar(x, y + 20, 12, 12, COLOURS[mode])
        svg.text(x + 17, y + 30, name, 11.5, FAINT)
        x += 34 + 6.6 * len(name)
    svg.text(MARGIN, y + 52, f"{unit} of the whole program; dark: with the world stopped; dotted line: as much as stopping the world", 11.5, FAINT)
    return y + 60


def draw(saved, modes):
    """The SVG document."""
    runs, unit = saved["runs"], saved["unit"]
    first = next(iter(runs))
    svg = Svg()
    svg.text(MARGIN, 42, "Garbage collection by hardware dirty bits", 21, INK, weight="bold")
    svg.text(MARGIN, 63, f"Debian's libgc, unmodified, in one boot of one machine; {saved['where']}", 12.5, FAINT)
    if "limit" in saved:
        svg.text(MARGIN, 80, f"All but the first are incremental: at most {short(saved['limit'])} {unit} per pause, where libgc can "
                 "end it. Short pauses cost work in all.", 12.5, FAINT)
    svg.text(MARGIN, 112, f"How long the program stands still: pauses of {first.replace('_', ' ')}", 15, INK, weight="bold")
    y = draw_pauses(svg, 118, runs[first], modes, unit)
    svg.text(MARGIN, y + 30, "What it all costs", 15, INK, weight="bold")
    y = draw_totals(svg, y + 48, runs, modes, unit)
    return svg.document(y + 16)
