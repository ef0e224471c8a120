"""The plot: processor time of a call, a bar a contender, as an SVG that is readable on light and on dark pages."""

from html import escape

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .quiet { fill: #59636e }
  .grid { stroke: #d1d9e0 }
  .hop { fill: #a3adb8 }
  .whole { fill: #54aeff }
  .ours { fill: #1a7f37 }
  .range { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .quiet { fill: #9198a1 }
    .grid { stroke: #3d444d }
    .hop { fill: #656c76 }
    .whole { fill: #1f6feb }
    .ours { fill: #2ea043 }
    .range { stroke: #f0f6fc }
  }
"""
WIDTH, LEFT, RIGHT = 760, 190, 90
ROW, BAR, TOP = 30, 18, 78


def svg(panels, base):
    """`panels` are pairs: a heading, and for each contender its name, its kind (`hop`, `whole`, `ours`), and the median,
    least and most of its ratio to `base`."""
    most = max(row[4] for _, rows in panels for row in rows)
    step = 0.5 if most <= 4 else 1
    end = (int(most / step) + 1) * step
    x = lambda ratio: LEFT + ratio / end * (WIDTH - LEFT - RIGHT)
    out, y = [], TOP
    for heading, rows in panels:
        out.append(f'<text class="quiet" x="20" y="{y}">{escape(heading)}</text>')
        y += 12
        bottom = y + ROW * len(rows)
        for tick in range(int(end / step) + 1):
            out.append(f'<line class="grid" x1="{x(tick * step):.1f}" x2="{x(tick * step):.1f}" y1="{y}" y2="{bottom}"/>')
        for name, kind, middle, least, greatest in sorted(rows, key=lambda row: row[2]):
            centre = y + ROW / 2
            out += [
                f'<text x="{LEFT - 10}" y="{centre + 4.5}" text-anchor="end">{escape(name)}</text>',
                f'<rect class="{kind}" x="{LEFT}" y="{centre - BAR / 2}" width="{x(middle) - LEFT:.1f}" height="{BAR}" rx="2"/>',
                f'<line class="range" x1="{x(least):.1f}" x2="{x(greatest):.1f}" y1="{centre}" y2="{centre}"/>',
                f'<text x="{x(greatest) + 8:.1f}" y="{centre + 4.5}">{middle:.2f} ×</text>',
            ]
            y += ROW
        for tick in range(int(end / step) + 1):
            out.append(
                f'<text class="quiet" x="{x(tick * step):.1f}" y="{y + 16}" text-anchor="middle">{tick * step:g}</text>'
            )
        y += 48
    legend = 20
    for kind, meaning, width in [
        ("hop", "passes on only", 130),
        ("whole", "signs and verifies", 150),
        ("ours", "Countersign: signs and verifies", 240),
    ]:
        out.append(f'<rect class="{kind}" x="{legend}" y="{y - 22}" width="12" height="12" rx="2"/>')
        out.append(f'<text class="quiet" x="{legend + 18}" y="{y - 11}">{meaning}</text>')
        legend += width
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">',
            "<title>Processor time of a call, by contender</title>",
            f"<style>{STYLE}</style>",
            '<text class="title" x="20" y="30">Processor time of a call</text>',
            f'<text class="quiet" x="20" y="50">in units of what {escape(base)} spends on passing it on; less is better;'
            " a line spans all rounds</text>",
            *out,
            "</svg>\n",
        ]
    )
