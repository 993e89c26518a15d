"""What the trainer's HTML pages have in common: a style and a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}h2{margin-top:2.5rem}rect{fill:#47c}
svg text{font:11px system-ui,sans-serif;fill:#555}@media(prefers-color-scheme:dark){
body{background:#181818;color:#ddd}}"""


def table(rows: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    """An HTML table; figures stand right."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for row in rows:
        cells = (
            f"<td{' class=n' if cell[:1].isdigit() and at else ''}>{escape(cell)}</td>" for at, cell in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>\n"
