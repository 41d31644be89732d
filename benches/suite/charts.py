"""Bar charts as SVG, by hand. They bring their own light card, so that they can be read on any background."""
from html import escape

BAR, VALUE, ROW, GAP = 150, 60, 22, 24  # widths of a panel's columns, a row's height, between panels
LETTER = 7.2  # as wide as one of a name in bold, at most
OURS, YARDSTICK, THEIRS = "#d9480f", "#495057", "#8fa8bf"
STYLE = ("text{font-family:ui-sans-serif,system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#1f2328}"
         ".title{font-size:15px;font-weight:600}.sub{font-weight:600}.note{fill:#59636e}.ours{font-weight:700}")


def colour(name):
    return OURS if name.startswith("asidecar") else YARDSTICK if name == "direct" or name.startswith("bare") else THEIRS


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def bars(title, note, panels, colour=colour):
    """A chart of panels side by side, each (title, [(name, value)]), and each with a scale of its own."""
    columns = min(len(panels), 3)
    label = 12 + round(LETTER * max((len(name) for _, rows in panels for name, _ in rows), default=0))
    # A line of panels is as high as its highest.
    heights = [34 + ROW * max(len(rows) for _, rows in panels[n:n + columns]) for n in range(0, len(panels), columns)]
    width = 2 * GAP + columns * (label + BAR + VALUE) + (columns - 1) * GAP
    width = max(width, 2 * GAP + max(9 * len(title), 7 * len(note)))
    height = 62 + sum(heights) + 8
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
           f' role="img" aria-label="{escape(title)}">', f"<style>{STYLE}</style>",
           f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="#fdfdfc" stroke="#d1d9e0"/>',
           f'<text class="title" x="{GAP}" y="28">{escape(title)}</text>',
           f'<text class="note" x="{GAP}" y="46">{escape(note)}</text>']
    for n, (sub, rows) in enumerate(panels):
        left, top = GAP + n % columns * (label + BAR + VALUE + GAP), 62 + sum(heights[:n // columns])
        out.append(f'<text class="sub" x="{left}" y="{top + 14}">{escape(sub)}</text>')
        largest = max((value for _, value in rows), default=0) or 1
        for i, (name, value) in enumerate(rows):
            y = top + 24 + i * ROW
            long = max(BAR * value / largest, 1.5)
            bold = ' class="ours"' if colour(name) == OURS else ""
            out += [f'<text{bold} x="{left + label - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
                    f'<rect x="{left + label}" y="{y + 2}" width="{long:.1f}" height="{ROW - 6}" rx="2"'
                    f' fill="{colour(name)}"/>',
                    f'<text{bold} x="{left + label + long + 5:.1f}" y="{y + 13}">{number(value)}</text>']
    return "\n".join([*out, "</svg>", ""])
