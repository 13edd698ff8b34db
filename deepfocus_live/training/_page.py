"""The report as one page that needs nothing else: no script, no network, light or dark."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepfocus_live.training._evaluate import JudgedSlice
from deepfocus_live.training._gate import Check
from deepfocus_live.training._pictures import LABEL_COLOUR, MASK_COLOUR, curve, slice_picture
from deepfocus_live.training._report import RetrainReport

__all__ = ["write_report"]

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1b2330;
  --quiet: #5d6878; --rule: #dfe3e9; --good: #0a7a45; --good-ground: #e2f4ea;
  --bad: #b3261e; --bad-ground: #fbe9e7; --loss: #7a5cc9; --iou: #0b7fab; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1a2029; --ink: #e6eaf0;
  --quiet: #98a4b5; --rule: #2c3543; --good: #5fd39a; --good-ground: #143527;
  --bad: #ff9a90; --bad-ground: #43201d; --loss: #b39bff; --iou: #58c4ec; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 48px; }
header { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; }
h1 { font-size: 24px; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 10px; }
p { margin: 6px 0; }
.lead { color: var(--quiet); margin: 6px 0 22px; }
.badge { font-weight: 600; font-size: 13px; padding: 3px 11px; border-radius: 999px; }
.good { color: var(--good); background: var(--good-ground); }
.bad { color: var(--bad); background: var(--bad-ground); }
.quiet { color: var(--quiet); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 18px 20px; margin: 0 0 16px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-top: 1px solid var(--rule);
  vertical-align: top; }
thead th { border-top: 0; color: var(--quiet); font-weight: 500; font-size: 13px; }
td.number, th.number { text-align: right; white-space: nowrap; }
td .badge { font-size: 12px; padding: 1px 9px; white-space: nowrap; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 18px; }
figure { margin: 0; }
figcaption { color: var(--quiet); font-size: 13px; margin-bottom: 4px; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--quiet); font-size: 11px; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .line.loss { stroke: var(--loss); } svg .line.iou { stroke: var(--iou); }
svg .dot.loss, svg .best.loss { fill: var(--loss); }
svg .dot.iou, svg .best.iou { fill: var(--iou); }
svg .best { stroke: var(--card); stroke-width: 2; }
.slices { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 16px; }
.slices img { width: 100%; height: auto; display: block; border-radius: 6px; background: #000; }
.slices figcaption { display: flex; justify-content: space-between; gap: 10px; margin: 6px 0 0;
  overflow-wrap: anywhere; }
.slices b { color: var(--ink); white-space: nowrap; }
.key { display: inline-block; width: 22px; height: 0; border-top: 3px solid; margin: 0 6px 4px 0;
  vertical-align: middle; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 40px; }
ul { margin: 4px 0 10px; padding-left: 20px; overflow-wrap: anywhere; }
td:first-child { color: var(--quiet); }
.gate { min-width: 640px; } .gate td:first-child { color: var(--ink); }
"""


def write_report(folder: Path, report: RetrainReport, worst: Sequence[JudgedSlice]) -> None:
    """Write `report.json` and `report.html` into a version's folder.

    Parameters
    ----------
    folder : path
    report : RetrainReport
    worst : sequence of JudgedSlice
        Held-out slices to show, worst first.
    """
    fields = {k: v for k, v in report.as_dict().items() if k not in ("path", "report")}
    fields["worst_held_out_slices"] = [
        {"slice": score.name, "iou": round(score.iou, 4)} for score in worst
    ]
    text = json.dumps(fields, indent=1, ensure_ascii=False, default=str)
    (folder / "report.json").write_text(f"{text}\n", encoding="utf-8")
    (folder / "report.html").write_text(_page(report, worst), encoding="utf-8")


def _page(report: RetrainReport, worst: Sequence[JudgedSlice]) -> str:
    body = [
        _head(report),
        _section("Gate", _gate(report)),
        _section("While it learnt", _curves(report)),
        _section("Held-out slices, worst first", _slices(report, worst)),
        _section("Stacks", _stacks(report)),
        _section("How", _settings(report)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(report.name)}: retraining</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(report: RetrainReport) -> str:
    badge = _badge("passed the gate" if report.passed else "refused by the gate", report.passed)
    change = report.iou_after - report.iou_before
    began = f"from {report.parent}" if report.parent else "from random weights"
    return (
        f"<header><h1>{_text(report.name)}</h1>{badge}</header>"
        f'<p class="lead">Taught {_text(began)} for profile {_text(report.profile)}. Held-out IoU '
        f"with {_text(report.truth)} {report.iou_before:.3f} → {report.iou_after:.3f} "
        f"({change:+.3f}) after {report.steps} steps, {report.minutes:.1f} min."
        f"{' Stopped early.' if report.stopped_early else ''}</p>"
    )


def _gate(report: RetrainReport) -> str:
    rows = "".join(_check(check) for check in report.checks)
    columns = "<th>judged on</th>" + "".join(
        f'<th class="number">{name}</th>' for name in ("before", "after", "change")
    )
    return (
        f'<p>{_text(report.reason)}.</p><div class="scroll"><table class="gate">'
        f"<thead><tr>{columns}<th>asked</th><th></th></tr></thead>{rows}</table></div>"
    )


def _check(check: Check) -> str:
    word = ("passed" if check.passed else "refused") if check.decides else "for information"
    verdict = _badge(word, check.passed) if check.decides else f'<span class="quiet">{word}</span>'
    numbers = (f"{check.before:.4f}", f"{check.after:.4f}", f"{check.change:+.4f}")
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return (
        f"<tr><td>{_text(check.what)}</td>{cells}"
        f'<td class="quiet">{_text(check.rule)}</td><td>{verdict}</td></tr>'
    )


def _curves(report: RetrainReport) -> str:
    loss = [(float(look.step), look.loss) for look in report.history]
    score = [(0.0, report.start_score)]
    score += [(float(look.step), look.score) for look in report.history]
    best = float(report.best_step)
    averaged = f", {report.best_blend:.0%} of the way from the weights before to these"
    return (
        f'<div class="curves">{curve("loss", loss, marked=best, name="loss")}'
        f"{curve('held-out IoU, less what the gate refuses', score, marked=best, name='iou')}</div>"
        f'<p class="quiet">The large point is the state that was taken, at step '
        f"{report.best_step} of {report.steps}{averaged if report.best_blend < 1 else ''}.</p>"
    )


def _slices(report: RetrainReport, worst: Sequence[JudgedSlice]) -> str:
    if not worst:
        return "<p>Nothing is in focus in what was held out.</p>"
    figures = "".join(
        f'<figure><img alt="{_text(score.name)}" src="{slice_picture(score)}">'
        f"<figcaption><span>{_text(score.name)}</span><b>IoU {score.iou:.2f}</b></figcaption>"
        "</figure>"
        for score in worst
    )
    label = "hand-made mask" if report.truth.startswith("hand") else "weak label"
    return (
        f'<p><span class="key" style="border-color:{LABEL_COLOUR}"></span>{label} &emsp;'
        f'<span class="key" style="border-color:{MASK_COLOUR}"></span>the new model’s mask &emsp;'
        '<span class="quiet">darkened: undecided, not judged</span></p>'
        f'<div class="slices">{figures}</div>'
    )


def _stacks(report: RetrainReport) -> str:
    parts = [
        _list(report.learnt_from),
        f"<p>Held out, never learnt from: {_text(report.held_out)}.</p>",
    ]
    if report.left_out:
        parts.append(f"<h2>Left out</h2>{_list(report.left_out)}")
    if report.notes:
        parts.append(f"<h2>Notes</h2>{_list(report.notes)}")
    return "".join(parts)


def _settings(report: RetrainReport) -> str:
    how = {
        "trained on": report.trained_on,
        "number format": report.precision,
        **report.settings,
        "gone on at step": report.resumed_at_step,
    }
    shown = {name: value for name, value in how.items() if value is not None}
    seconds = {name: f"{value:.1f} s" for name, value in report.seconds.items()}
    return f'<div class="two"><div>{_table(shown)}</div><div>{_table(seconds)}</div></div>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _table(rows: Mapping[str, Any]) -> str:
    named = {name.replace("_", " "): value for name, value in rows.items()}
    cells = (f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in named.items())
    return f"<table>{''.join(cells)}</table>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _badge(word: str, good: bool) -> str:
    return f'<span class="badge {"good" if good else "bad"}">{word}</span>'


def _text(value: object) -> str:
    return html.escape(str(value))
