"""The page of a run's report: one HTML file with its pictures in it, which loads nothing and runs nothing."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from icosfl.aggregate.progress import Event, Failed, Finished, RoundDone
from icosfl.aggregate.report_picture import Picture, ahead
from icosfl.aggregate.report_story import Story
from icosfl.train.baselines import AR, GLOBAL, NAMES, NLINEAR
from icosfl.train.scores import SERVED

_NONE = "-"
_WORDS = {AR: "AR", NLINEAR: "NLinear"}
_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; background: #fff;
  max-width: 1120px; margin: 0 auto; padding: 24px 20px 60px }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 19px; margin: 40px 0 8px } p { margin: 6px 0 }
.quiet, figcaption { color: #666 } .bad { color: #d55e00; font-weight: 600 }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 10px; margin: 20px 0 }
.facts div { border: 1px solid #ddd; border-radius: 6px; padding: 8px 12px }
.facts span { display: block; color: #666; font-size: 12px } .facts b { font-size: 19px; font-weight: 600 }
.facts small { display: block; color: #666 }
figure { margin: 8px 0 } figure img { width: 100%; height: auto } figcaption { font-size: 13px }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: 4px 12px 4px 0; text-align: right; vertical-align: top; border-bottom: 1px solid #e8e8e8 }
th { color: #666; font-weight: 600; white-space: nowrap } .text { text-align: left }
ol { font-size: 13px; padding-left: 22px } time { color: #666; margin-right: 8px; font-variant-numeric: tabular-nums }
summary { cursor: pointer; color: #0072b2 }
"""


def page(
    told: Story,
    events: Sequence[Event],
    result: Mapping[str, Any],
    pictures: Sequence[Picture],
    config: Mapping[str, object],
) -> str:
    """Put the page together. All that hosts say of themselves is text in it, whatever it looks like.

    Args:
        told: The run.
        events: All of it.
        result: What `result.json` says.
        pictures: To be shown.
        config: The run configuration.
    """
    title = f"Run {told.run}: {told.state}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(_began(told))}</p>',
        *_last_words(told),
        _facts(told, result),
        *(_figure(picture) for picture in pictures),
        _section("Errors", _errors(result.get("summary") or ())),
        _section("Rounds in numbers", _rounds(told)),
        _section("Nodes in numbers", _nodes(told, result)),
        _section("What happened", _events(events)),
        _section("Settings", _settings(config)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # even if a host's name were markup after all, nothing would be loaded or run
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _began(told: Story) -> str:
    if told.warm is None:
        start = "No node was asked yet."
    elif told.warm:
        start = "It went on from the model before."
    else:
        start = f"It began with fresh weights{f': {told.fresh_because}' if told.fresh_because else ''}."
    return f"{f'Begun {_moment(told.began)} UTC. ' if told.began else ''}{start}"


def _last_words(told: Story) -> Iterable[str]:
    if isinstance(told.end, Failed):
        yield f'<p class="bad">{escape(told.end.reason)}</p><p>{escape(told.end.cure)}</p>'
    if told.end is None:
        yield '<p class="bad">The run has no last word yet.</p>'
    if told.stopped is not None:
        yield f"<p>{escape(_sentence(told.stopped.line))}</p>"
    if isinstance(told.end, Finished) and told.end.why:
        yield f"<p>Not the last round's model was handed out: {escape(told.end.why)}.</p>"
    if told.resumed_after:
        after = ", ".join(str(number) for number in told.resumed_after)
        yield f"<p>It was interrupted, and another ServerApp went on after round {after}.</p>"


def _facts(told: Story, result: Mapping[str, Any]) -> str:
    end = told.end if isinstance(told.end, Finished) else None
    best = told.best
    skill = end.skill if end and end.skill is not None else best.skill if best else None
    start = told.models[0].skill if told.models else None
    handed_out = told.handed_out
    facts = [
        ("rounds", f"{len(told.rounds)} of {told.asked}", "ended early" if told.stopped else ""),
        (
            "handed out",
            _NONE if handed_out is None else f"round {handed_out}" if handed_out else "the model before",
            f"model {end.digest[:12]}" if end else "",
        ),
        ("validation skill", _number(skill), "" if start is None else f"{_number(start)} before the first round"),
        (
            "nodes with the model",
            f"{len(end.nodes)} of {len(told.hosts)}" if end else _NONE,
            f"{len(end.left_out)} did not take it" if end and end.left_out else "",
        ),
        ("took", _duration(end.seconds) if end else _NONE, ""),
    ]
    epsilon = next((each.epsilon for each in reversed(told.rounds) if each.epsilon is not None), None)
    if epsilon is not None:
        facts.append(("privacy spent", f"ε = {_number(epsilon)}", ""))
    tiles = [
        f"<div><span>{name}</span><b>{escape(value)}</b>{f'<small>{escape(more)}</small>' if more else ''}</div>"
        for name, value, more in facts
    ]
    skipped = (result.get("controller") or {}).get("skipped")
    note = f'<p class="quiet">Not evaluated on the controller: {escape(str(skipped))}</p>' if skipped else ""
    return f'<div class="facts">{"".join(tiles)}</div>{note}'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    caption = escape(picture.caption)
    return (
        f'<h2>{escape(picture.title)}</h2>\n<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}" if body else ""


def _errors(summary: Sequence[Mapping[str, Any]]) -> str:
    """RMSE by predictor, as means over the nodes."""
    names = [GLOBAL, SERVED, *NAMES]
    lines = []
    for each in summary:
        means = each["means"]
        rmse = [_number(means[name]["rmse"]) if name in means else _NONE for name in names]
        unit = "" if each["unit"] == "1" else each["unit"]
        lines.append(
            [each["series"], unit, ahead(each["horizon_seconds"]), str(each["nodes"]), *rmse, _share(each["coverage"])]
        )
    words = ["global model", "served", *(_WORDS.get(name, name).replace("_", " ") for name in NAMES)]
    head = ["series", "unit", "horizon", "nodes", *words, "interval holds"]
    table = _table(head, lines, text={0, 1, 2})
    return f'{table}<p class="quiet">RMSE on the nodes\' test rows, means over the nodes.</p>' if table else ""


def _rounds(told: Story) -> str:
    after = {model.round: model.skill for model in told.models}
    lines = [
        [
            str(each.round),
            _number(each.loss),
            _number(after.get(each.round)),
            str(len(each.nodes)),
            str(each.examples),
            _number(each.seconds),
            _number(each.learning_rate),
            _number(each.epsilon),
            "; ".join(str(absent) for absent in each.left_out),
        ]
        for each in told.rounds
    ]
    head = [
        "round",
        "loss",
        "skill after it",
        "updates",
        "windows",
        "seconds",
        "learning rate",
        "ε",
        "left out, and why",
    ]
    return _table(head, lines, text={8})


def _nodes(told: Story, result: Mapping[str, Any]) -> str:
    by_host = {str(each["host"]): each for each in result.get("nodes") or ()}
    absent = {each.host: each.reason for each in told.at_first}
    absent |= {str(each["host"]): str(each["reason"]) for each in result.get("missing") or ()}
    lines = []
    for host in told.hosts:
        candidate = told.candidates.get(host)
        trained = [each for each in told.rounds if host in each.nodes]
        skills = [model.by_host[host] for model in told.models if host in model.by_host]
        seconds = [each.seconds_by_node[host] for each in told.rounds if host in each.seconds_by_node]
        said = dict.fromkeys(reason for each in told.rounds if (reason := told.reason(each, host)))
        notes = [absent.get(host, ""), *said, str(by_host.get(host, {}).get("reason") or "")]
        lines.append(
            [
                host,
                str(candidate.rows) if candidate else _NONE,
                str(candidate.windows) if candidate else _NONE,
                f"{len(trained)} of {len(told.rounds)}",
                _number(skills[0] if skills else None),
                _number(skills[-1] if skills else None),
                _number(median(seconds) if seconds else None),
                _has_it(told, host),
                "; ".join(dict.fromkeys(note for note in notes if note)),
            ]
        )
    head = [
        "node",
        "rows",
        "windows",
        "rounds",
        "skill at first",
        "at last",
        "seconds a round",
        "has the model",
        "notes",
    ]
    return _table(head, lines, text={0, 7, 8})


def _has_it(told: Story, host: str) -> str:
    if not isinstance(told.end, Finished):
        return _NONE
    return "yes" if host in told.end.nodes else "no"


def _events(events: Sequence[Event]) -> str:
    """All events in words; of equal ones in a row only the first."""
    lines: list[str] = []
    before = ""
    for event in events:
        line = event.line
        if line != before and not isinstance(event, RoundDone):
            lines.append(f"<li><time>{_moment(event.time)}</time>{escape(_sentence(line))}</li>")
        elif isinstance(event, RoundDone):
            lines.append(f"<li><time>{_moment(event.time)}</time>Round {event.round} of {event.of} done</li>")
        before = line
    return f"<ol>{''.join(lines)}</ol>" if lines else ""


def _settings(config: Mapping[str, object]) -> str:
    table = _table(["setting", "value"], [[name, str(config[name])] for name in sorted(config)], text={0, 1})
    return f"<details><summary>{len(config)} values</summary>{table}</details>" if table else ""


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], text: set[int]) -> str:
    """A table; columns in `text` are set from the left. A column in which nothing is told is left out."""
    shown = [at for at in range(len(head)) if any(line[at] not in {"", _NONE} for line in lines)]
    if not shown:
        return ""

    def row(tag: str, cells: Sequence[str]) -> str:
        found = (f"<{tag}{' class=text' if at in text else ''}>{escape(cells[at])}</{tag}>" for at in shown)
        return f"<tr>{''.join(found)}</tr>"

    body = "".join(row("td", line) for line in lines)
    return f'<div class="wide"><table><thead>{row("th", head)}</thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return _NONE
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:.0%}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _moment(time: str) -> str:
    return escape(time[:19].replace("T", " "))


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:]
