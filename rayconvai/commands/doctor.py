"""``python -m rayconvai doctor``: whether runs will work here, or on the nodes of a cluster, and what to do if not."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence

from rayconvai.commands.check_packages import check, requirements
from rayconvai.commands.finding import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def main(arguments: Sequence[str]) -> int:
    """Check everything and show what was found; return 0 if runs will work, 1 if something will not."""
    options = _arguments().parse_args(arguments)
    if options.address:
        os.environ["RAY_ADDRESS"] = options.address
    findings = _merged(_findings(options.storage))
    bad = sum(finding.level == "error" for finding in findings)
    doubts = sum(finding.level == "warning" for finding in findings)
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
        return 1 if bad else 0
    _show(findings)
    verdict = f"{bad} thing{'s' * (bad > 1)} will not work" if bad else "runs will work"
    print(verdict + (f"; {doubts} warning{'s' * (doubts > 1)}" if doubts else ""))
    return 1 if bad else 0


def _findings(storage: str | None) -> list[Finding]:
    packages = list(check(*requirements()))
    if any(finding.level == "error" for finding in packages):
        return packages  # what looks at the rest may need what is missing
    from rayconvai.commands.examination import findings_of

    return findings_of(storage)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings that are the same on several nodes as one, with all their names."""
    where: dict[Finding, list[str]] = {}
    for finding in findings:
        where.setdefault(dataclasses.replace(finding, where=""), []).append(finding.where)
    return [dataclasses.replace(finding, where=", ".join(filter(None, names))) for finding, names in where.items()]


def _show(findings: Sequence[Finding]) -> None:
    """Print a table, or where no terminal is, a line each."""
    if not sys.stdout.isatty():
        for finding in findings:
            print(_line(finding))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for header in ("", "check", "finding", "where")[: 4 if any(finding.where for finding in findings) else 3]:
        table.add_column(header, overflow="fold")
    for finding in findings:
        text = Text(finding.text + (f"\nfix: {finding.fix}" if finding.fix else ""))
        cells = [Text(finding.level, _COLOURS[finding.level]), Text(finding.check), text, Text(finding.where)]
        table.add_row(*cells[: len(table.columns)])
    Console().print(table)


def _line(finding: Finding) -> str:
    where = f" [{finding.where}]" if finding.where else ""
    fix = f"; fix: {finding.fix}" if finding.fix else ""
    return f"{finding.level:8} {finding.check:14} {finding.text}{fix}{where}"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rayconvai doctor",
        description="Check whether runs will work on this machine, or on every node of the Ray cluster that "
        "RAY_ADDRESS names. The exit status is 0 if they will (warnings apart) and 1 if something will not work.",
    )
    parser.add_argument(
        "--storage", metavar="PLACE", help="where runs are to be kept: a directory, or s3://bucket/runs"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="the cluster's head; else RAY_ADDRESS, else no cluster")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser
