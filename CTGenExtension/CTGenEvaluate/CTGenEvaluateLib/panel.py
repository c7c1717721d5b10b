"""What the panel shows of metrics, organs and results; nothing here changes them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import qt
from CTGenLib import tables
from CTGenLib.rows import Row
from slicer.i18n import tr as _

from . import table
from .metrics import Metric, lacking

PRESETS = ("reconstruction", "segmentation", "generation", "safe-for-my-task")
SEGMENTERS = ("threshold", "totalsegmentator", "lungmask")
NAMED = 4  # organs, failures and notes that are listed before "and more"
VERDICT_COLORS = {"OK": "green", "caution": "#b06000", "no": "#b00000"}


def presetItems(known: Sequence[str]) -> list[tuple[str, str]]:
    """(title, name) of the presets; those that the extension does not know keep their names."""
    titles = {
        "reconstruction": _("Reconstruction"),
        "segmentation": _("Segmentation"),
        "generation": _("Generation"),
        "safe-for-my-task": _("Is this safe for my task?"),
    }
    return [(titles.get(name, name), name) for name in known or PRESETS]


def prepare(widget) -> None:
    """Set up the list of metrics."""
    widget.setColumnCount(3)
    widget.setHorizontalHeaderLabels([_("Metric"), _("Better"), _("Measured")])
    widget.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
    for column in (1, 2):
        widget.horizontalHeader().setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
    widget.setSelectionMode(qt.QAbstractItemView.NoSelection)
    widget.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
    widget.verticalHeader().setVisible(False)
    widget.verticalHeader().setDefaultSectionSize(22)


def showMetrics(widget, metrics: Sequence[Metric], given: frozenset[str], folders: bool) -> None:
    """Fill the list of a preset's metrics, and say which cannot be measured."""
    widget.setRowCount(len(metrics))
    for row, metric in enumerate(metrics):
        trouble = lacking(metric, given, folders)
        unit = f" ({metric.unit})" if metric.unit else ""
        better = table.betterText(metric.better)
        for column, text in enumerate((f"{metric.title}{unit}", better, trouble or _("yes"))):
            item = qt.QTableWidgetItem(text)
            item.setToolTip("\n".join(filter(None, [metric.name, metric.source, metric.missing])))
            item.setFlags(qt.Qt.ItemIsEnabled if not trouble else qt.Qt.NoItemFlags)
            widget.setItem(row, column, item)


def organsText(rows: Sequence[Row]) -> str:
    """What a segmentation brings, in a sentence."""
    if not rows:
        return ""
    if any(row.waiting for row in rows):
        return _("Asking the engine what the segments stand for...")
    known = list(dict.fromkeys(row.label.name for row in rows if row.used and row.label is not None))
    unknown = [row.name for row in rows if row.used and row.label is None]
    text = _("{count} known: {names}").format(count=len(known), names=shortList(known)) if known else ""
    if unknown:
        left = _("left out, as the engine does not know them: {names}").format(names=shortList(unknown))
        text = f"{text}; {left}" if text else left[0].upper() + left[1:]
    return f"{text}."


def shortList(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    text = ", ".join(names[:NAMED])
    more = len(names) - NAMED
    return text + (_(" and {count} more").format(count=more) if more > 0 else "")


def verdictText(evaluation: Mapping[str, Any]) -> str:
    """The answer of "Is this safe for my task?" in words with its limits, as rich text; empty: not asked."""
    verdicts = evaluation.get("verdicts") or []
    if not verdicts:
        return ""
    facts = evaluation["metrics"]
    found = [each["verdict"] for each in verdicts]
    if "no" in found:
        answer = _("No: at least one limit is exceeded.")
    elif "caution" in found:
        answer = _("With caution: at least one number is outside its first limit.")
    elif "OK" in found:
        answer = _("Nothing measured here speaks against it.")
    else:
        answer = _("Nothing could be judged.")
    worst = next((word for word in ("no", "caution", "OK") if word in found), "")
    lines = [f'<b style="color: {VERDICT_COLORS.get(worst, "gray")}">{html.escape(answer)}</b>']
    for each in verdicts:
        fact = facts.get(each["metric"], {})
        title = fact.get("title", each["metric"])
        value = tables.number(each["value"])
        region = each["region"] if each["region"] not in ("", "all") else ""
        number = f" {table.text(value)} {fact.get('unit', '')}".rstrip() if value == value else ""
        where = f" ({region})" if region else ""
        words = {"OK": _("OK"), "caution": _("caution"), "no": _("no")}.get(each["verdict"], _("not judged"))
        color = VERDICT_COLORS.get(each["verdict"], "gray")
        lines.append(
            f'{html.escape(title + number + where)}: <b style="color: {color}">{html.escape(words)}</b>. '
            f"<small>{html.escape(each['limit'])}</small>"
        )
    lines.append(
        "<small>"
        + html.escape(_("Limits are those of the engine for research; they do not clear anything for patients."))
        + "</small>"
    )
    return "<br>".join(lines)


def remarksText(evaluation: Mapping[str, Any]) -> str:
    """Failures and what was left out, as rich text."""
    parts = []
    failures = evaluation.get("failures") or []
    if failures:
        head = _("{count} could not be measured:").format(count=len(failures))
        lines = [" ".join(filter(None, [each["case"], each["metric"]])) + f": {each['message']}" for each in failures]
        parts.append(f'<span style="color: #b00000">{_list(head, lines)}</span>')
    notes = evaluation.get("notes") or []
    if notes:
        parts.append(f"<small>{_list(_('Notes:'), notes)}</small>")
    return "<br>".join(parts)


def _list(head: str, lines: Sequence[str]) -> str:
    shown = [html.escape(line) for line in lines[:NAMED]]
    if len(lines) > NAMED:
        shown.append(html.escape(_("and {count} more; see the export").format(count=len(lines) - NAMED)))
    return "<br>&#8226; ".join([html.escape(head), *shown])


def summaryText(evaluation: Mapping[str, Any]) -> str:
    """The first numbers of whole volumes, for the status line."""
    lines = [line for line in evaluation["summary"] if line["region"] == "all" and line["mean"] is not None][:3]
    return ", ".join(
        f"{line['title']} {table.text(tables.number(line['mean']))} {line['unit']}".strip() for line in lines
    )
