"""The doctor on packages: Python, what pyproject.toml asks for, its extras, and releases that are known to be bad."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import rayconvai
from rayconvai.commands.finding import Finding, error, ok, warning

BAD = {
    ("lightning", "2.6.2"): "was a malicious release: replace it, and change every secret that this machine has held",
    ("lightning", "2.6.3"): "was a malicious release: replace it, and change every secret that this machine has held",
}
_ALL = {"dev", "test"}
"""Extras for those who work on rayconvai itself."""


def check(asked: Sequence[str], python: str) -> Iterator[Finding]:
    """Hold what is installed against what is asked for.

    Args:
        asked: requirements, those of extras with a marker that names it, as ``requirements`` returns them.
        python: the range of Python's versions.
    """
    version = platform.python_version()
    if not SpecifierSet(python).contains(version):
        yield error("python", f"{version}, not {python}", "make the virtual environment with another Python")
    else:
        yield ok("python", version)
    required = [Requirement(line) for line in asked]
    plain = [requirement for requirement in required if not _extra(requirement)]
    faults = [*_bad(), *(fault for requirement in plain if (fault := _fault(requirement)))]
    if faults:
        yield error("packages", "; ".join(faults), "pip install -e . in the checkout, or pip install rayconvai")
    elif plain:
        shown = ", ".join(f"{name} {installed(name)}" for name in ("torch", "lightning", "ray"))
        yield ok("packages", f"{len(plain)} as pyproject.toml asks: {shown}")
    else:
        yield warning("packages", "what rayconvai asks for is not known here", "pip install -e . in the checkout")
    yield from _extras(required)


def requirements() -> tuple[list[str], str]:
    """Return what rayconvai asks for, each with its extra as a marker, and its range of Python versions.

    Of the checkout or the job's files that it runs from, else of what is installed; nothing where neither is known.
    """
    file = Path(rayconvai.__file__).parents[1] / "pyproject.toml"
    if sys.version_info >= (3, 11) and file.is_file():
        import tomllib

        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        asked = list(project["dependencies"])
        for extra, lines in project["optional-dependencies"].items():
            asked += [f"{line}; extra == '{extra}'" for line in lines]
        return asked, project["requires-python"]
    try:
        about = importlib.metadata.metadata("rayconvai")
    except importlib.metadata.PackageNotFoundError:
        return [], ""
    return about.get_all("Requires-Dist") or [], about["Requires-Python"]


def versions(asked: Sequence[str]) -> dict[str, str]:
    """Return the versions that are installed of what is asked for, extras too."""
    names = {Requirement(line).name for line in asked}
    return {name: version for name in sorted(names) if (version := installed(name))}


def compare(of_nodes: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Say what is not the same on all nodes.

    Args:
        of_nodes: node -> package -> version; ``rayconvai`` has its code's checksum.
    """
    names = sorted({name for versions_there in of_nodes.values() for name in versions_there})
    for name in names:
        there = {node: versions_there.get(name, "none") for node, versions_there in of_nodes.items()}
        if len(set(there.values())) == 1:
            continue
        said = f"{name} is not the same: " + ", ".join(f"{version} on {node}" for node, version in there.items())
        if name == "rayconvai":
            yield error("same code", said, "let all nodes run one checkout, or send it along: ray job submit")
        elif name in ("torch", "lightning", "ray"):
            yield error("same packages", said, f"pip install the same {name} on all nodes")
        else:
            yield warning("same packages", said, f"pip install the same {name} on all nodes")


def installed(name: str) -> str:
    """Return the version of a package; empty if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fault(requirement: Requirement) -> str:
    version = installed(requirement.name)
    if not version:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is not {requirement.specifier}"
    return ""


def _bad() -> Iterator[str]:
    for (name, version), why in BAD.items():
        if installed(name) == version:
            yield f"{name} {version} {why}"


def _extras(required: Sequence[Requirement]) -> Iterator[Finding]:
    extras: dict[str, list[Requirement]] = {}
    for requirement in required:
        extras.setdefault(_extra(requirement), []).append(requirement)
    for name in ("", *_ALL):
        extras.pop(name, None)
    there = [name for name, needed in extras.items() if not any(map(_fault, needed))]
    missing = [name for name in extras if name not in there]
    if extras:
        more = f"; not: {', '.join(missing)} (pip install 'rayconvai[NAME]' for what needs one)" if missing else ""
        yield ok("extras", (", ".join(there) or "none") + more)


def _extra(requirement: Requirement) -> str:
    found = re.search(r"""extra == ['"]([\w-]+)['"]""", str(requirement.marker or ""))
    return found[1] if found else ""
