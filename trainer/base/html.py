"""What the trainer's pages have in common: a style, a frame, and a table, in HTML and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}h2{margin-top:2.5rem}rect{fill:#47c}
svg text{font:11px system-ui,sans-serif;fill:#555}@media(prefers-color-scheme:dark){
body{background:#181818;color:#ddd}}"""


def document(title: str, body: str) -> str:
    """A whole HTML page that needs no other file. `body` is HTML."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><h1>{escape(title)}</h1>\n{body}</body></html>\n'


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


def markdown_table(rows: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    """The same in Markdown, without a line break at its end."""
    return "\n".join(
        [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    )
