"""The one page: its sections follow from what there is to show."""

from __future__ import annotations

from pathlib import Path

from skillmeta.reports import adaptation, html, plots, sections, skills
from skillmeta.reports.content import Content
from skillmeta.reports.html import Section


def write_report(folder: Path, content: Content) -> Path:
    """report.html and pictures/ in a folder. Returns the page."""
    shown = [section for section in sections_of(content, folder) if section is not None]
    html.write(folder / "report.html", content.title, content.lead, shown, content.warnings)
    return folder / "report.html"


def sections_of(content: Content, folder: Path) -> list[Section | None]:
    """Everything that fits, in the order of a page; None for what does not."""
    study, evaluation = content.study, content.evaluation
    colours = {} if study is None else plots.palette(list(study.methods), study.reference)
    made: list[Section | None] = []
    if study is not None:
        made += [
            sections.final_scores(study, colours, folder),
            sections.differences_section(study),
            sections.end_of_training(study),
            sections.methods(study),
        ]
    if evaluation is not None:
        made += adaptation.sections(evaluation, colours, content.family, folder, study.reference if study else None)
    if study is not None:
        made += [
            sections.learning(study, colours, folder),
            sections.held_out(study, colours, folder),
            *sections.where(study, content, colours, folder),
            sections.inside(study, colours, folder),
        ]
    made += skills.sections(content.models, content.family, folder)
    return [*made, sections.again(content)]
