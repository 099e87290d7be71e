"""The parts of a self-contained HTML page: inline SVG and CSS, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from skillmeta.run.files import write_whole

SENTENCE = 32  # characters; what is longer than a number and its interval
CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 0 auto; padding: 2rem 1rem 4rem;
  max-width: 68rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .6rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
p { max-width: 46rem; } .lead { font-size: 1.08rem; } .note { color: #555; font-size: .92rem; }
.warning { background: #fff4d6; border-left: 4px solid #e69f00; padding: .5rem .8rem; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid #ddd; } th { font-weight: 600; color: #444; }
th:first-child, td:first-child { text-align: left; } .scroll { overflow-x: auto; }
td { white-space: nowrap; } td.sentence { white-space: normal; min-width: 14rem; }
@media (max-width: 68rem) { table { font-size: .85rem; } th, td { padding: .3rem .4rem; } }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .92rem; max-width: 46rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .85rem; line-height: 1.4; }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  pre { white-space: pre-wrap; } }
"""


@dataclass(frozen=True)
class Table:
    """Rows of text under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """An <svg> element and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a page; what it does not have is left out."""

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    code: str = ""
    folded: dict[str, str] = field(default_factory=dict)  # summary -> preformatted text, closed at first


def html(title: str, lead: Sequence[str], sections: Sequence[Section], warnings: Sequence[str] = ()) -> str:
    """The page. All text is escaped; SVG comes from `plots.to_svg`."""
    body = [f"<h1>{escape(title)}</h1>"]
    body += [f'<p class="lead">{escape(line)}</p>' for line in lead]
    body += [f'<p class="warning">{escape(line)}</p>' for line in warnings]
    body += [_section(section) for section in sections]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title>"
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{CSS}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"] if section.title else []
    parts += [f"<p>{escape(line)}</p>" for line in section.text]
    if section.table is not None:
        parts.append(_table(section.table))
    figures = [f"<figure>{p.svg}<figcaption>{escape(p.caption)}</figcaption></figure>" for p in section.pictures]
    parts.append(f'<div class="pair">{"".join(figures)}</div>' if len(figures) in (2, 4) else "".join(figures))
    if section.code:
        parts.append(f"<pre>{escape(section.code)}</pre>")
    parts += [
        f"<details><summary>{escape(s)}</summary><pre>{escape(t)}</pre></details>" for s, t in section.folded.items()
    ]
    return "\n".join(part for part in parts if part)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(text: str) -> str:
    """A number and its interval stay on one line; a sentence need not."""
    start = '<td class="sentence">' if len(text) > SENTENCE else "<td>"
    return f"{start}{escape(text)}</td>"


def write(
    path: Path, title: str, lead: Sequence[str], sections: Sequence[Section], warnings: Sequence[str] = ()
) -> None:
    write_whole(path, html(title, lead, sections, warnings))
