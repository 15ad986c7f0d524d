"""``python -m rayconvai report runs/asr``: a sweep's whole story as one HTML file that needs no network."""

from __future__ import annotations

import argparse
from pathlib import Path

from rayconvai.analysis.load import Sweep
from rayconvai.analysis.render import sections, whole_page
from rayconvai.analysis.serve import serve
from rayconvai.errors import StorageError
from rayconvai.places import is_address, open_address, words

_PORT = 8765


def write_report(place: str | Path, output: str | Path = "") -> str:
    """Write the report of the sweep in a directory or bucket; return where it is.

    Args:
        place: the sweep's.
        output: a file or an address; empty: ``report.html`` beside the sweep's journal.

    Raises:
        SweepError: there is no sweep, or its journal is damaged.
        StorageError: it cannot be read, or the report cannot be written.
        ConfigError: plotly is not installed.
    """
    sweep = Sweep(place)
    target = str(output) or f"{str(place).rstrip('/')}/report.html"
    text = whole_page(sweep.name, sections(sweep)).encode()
    try:
        if is_address(target):
            fs, path = open_address(target)
            fs.pipe_file(path, text)
        else:
            Path(target).write_bytes(text)
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(
            f"the report cannot be written to {target}: {words(error)}; choose a file: -o FILE"
        ) from error
    return target


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rayconvai report", description="Tell a sweep's story in one HTML file that needs no network."
    )
    parser.add_argument("sweep", help="its directory or address: runs/asr, s3://bucket/runs/asr")
    parser.add_argument("-o", "--output", default="", metavar="FILE", help="where to; else report.html in the sweep")
    parser.add_argument("--serve", action="store_true", help="show it live, as the sweep goes on; Ctrl-C ends it")
    parser.add_argument("--host", default="127.0.0.1", help="for --serve: who may look; 127.0.0.1: this machine alone")
    parser.add_argument("--port", type=int, default=_PORT, help=f"for --serve; {_PORT}; 0: any that is free")
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.sweep, options.host, options.port)
        return 0
    target = write_report(options.sweep, options.output)
    print(f"report: {target}")
    return 0
