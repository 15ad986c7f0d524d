"""All that the doctor examines: each node, and what is between the nodes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence

from rayconvai.commands import check_collective as collective
from rayconvai.commands import check_packages as packages
from rayconvai.commands import check_storage as storage
from rayconvai.commands.finding import Finding, at, error, ok, warning
from rayconvai.commands.look import look
from rayconvai.commands.nodes import Node, gather, here, skews, there
from rayconvai.errors import ClusterError, StorageError
from rayconvai.places import is_address, lasting_place
from rayconvai.train.address import address, check_address, is_local
from rayconvai.train.cluster import ray_cluster

LOOK_SECONDS = 180.0
"""For a node to start a process, import torch and look at everything."""
STORAGE_SECONDS = 60.0
MOST_SKEW = 2.0
"""Seconds by which clocks may differ; journals in buckets have leases of a minute."""
_TOKEN = "set RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN_PATH on all nodes and here (ray get-auth-token --generate)"


def findings_of(named: str | None) -> list[Finding]:
    """Check this machine, or every node of the cluster that RAY_ADDRESS names.

    Args:
        named: where runs are to be kept; None: where the cluster says, or ``runs``.
    """
    if is_local():
        return list(_of_nodes([here()], named))
    try:
        check_address()
        with ray_cluster():
            return [*_of_cluster(), *_of_nodes(there(), named)]
    except ClusterError as problem:
        said, _, fix = str(problem).partition("; ")
        fix = fix or "see that its head is running (ray status there) and that this machine reaches it"
        return [error("cluster", said, f"{fix}. The rest is of this machine alone"), *_of_nodes([here()], named)]


def _of_cluster() -> Iterator[Finding]:
    yield ok("cluster", f"{address()}: {len(there())} nodes")
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        yield ok("token", "the cluster asks for a token, and takes the one that is here")
    else:
        yield warning("token", "the cluster asks for none: whoever reaches it can run anything there", _TOKEN)


def _of_nodes(nodes: Sequence[Node], named: str | None) -> Iterator[Finding]:
    """Look at each node, and at what is between them."""
    asked, python = packages.requirements()
    place, problem = _place(named, alone=not nodes[0].id)
    looked = gather(
        "node", LOOK_SECONDS, [(node, (place, asked, python, dict(node.resources))) for node in nodes], look
    )
    versions, gpus, answering = {}, {}, []
    for node, answer in zip(nodes, looked, strict=True):
        if isinstance(answer, Finding):
            yield answer
            continue
        yield from at(node.name, [Finding(**finding) for finding in answer["findings"]])
        versions[node.name], gpus[node.name] = answer["versions"], answer["gpus"]
        answering.append(node)
    yield from packages.compare(versions)
    for name, seconds in skews(answering, 10.0).items():
        if abs(seconds) > MOST_SKEW:
            text = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} the clock here"
            yield from at(name, [warning("clock", text, "let chrony or ntpd set the clocks")])
    yield from [problem] if problem else _storage(answering, place or "")
    if answering:
        yield from _all_reduce(answering, gpus)


def _place(named: str | None, *, alone: bool) -> tuple[str | None, Finding | None]:
    """Return where runs are kept, or what is wrong with it."""
    named = named or os.environ.get("RAYCONVAI_STORAGE") or ("runs" if alone else None)
    if named is None:
        return None, warning("storage", "not checked", "name it: --storage /shared/runs or --storage s3://bucket/runs")
    try:
        place = lasting_place(named)
    except StorageError as problem:
        return None, error("storage", str(problem), "--storage PLACE")
    return place if is_address(place) else os.path.abspath(place), None


def _storage(nodes: Sequence[Node], place: str) -> Iterator[Finding]:
    names, files = [f".doctor-{uuid.uuid4().hex[:8]}"], [str(number) for number in range(len(nodes))]
    calls = [(node, (place, names, file)) for node, file in zip(nodes, files, strict=True)]
    wrote = gather("storage", STORAGE_SECONDS, calls, storage.write)
    written = {
        node.name: answer.text if isinstance(answer, Finding) else "" for node, answer in zip(nodes, wrote, strict=True)
    }
    wrote_there = [file for file, answer in zip(files, wrote, strict=True) if not isinstance(answer, Finding)]
    # Each reads what the next one wrote: if they are not all at one place, two of these are not.
    pairs = list(zip(wrote_there, wrote_there[1:] + wrote_there[:1], strict=True))
    reads = [(nodes[int(mine)], (place, names, [mine, next_one])) for mine, next_one in pairs]
    saw = gather("storage", STORAGE_SECONDS, reads, storage.unseen)
    written |= {
        node.name: answer.text for (node, _), answer in zip(reads, saw, strict=True) if isinstance(answer, Finding)
    }
    missing = {
        node.name: [nodes[int(file)].name for file in answer]
        for (node, _), answer in zip(reads, saw, strict=True)
        if not isinstance(answer, Finding)
    }
    made = [[] if isinstance(answer, Finding) else answer for answer in wrote]
    gather(
        "storage", STORAGE_SECONDS,
        [(node, (*arguments, paths)) for (node, arguments), paths in zip(calls, made, strict=True)], storage.remove,
    )  # fmt: skip
    yield from storage.judge(place, written, missing)


def _all_reduce(nodes: Sequence[Node], gpus: dict[str, int]) -> Iterator[Finding]:
    places = collective.ranks(gpus)
    by_name = {node.name: node for node in nodes}
    first = by_name[places[0][0]]
    port = gather("all-reduce", 30.0, [(first, ())], collective.free_port)[0]
    if isinstance(port, Finding):
        yield port
        return
    calls = [(by_name[name], (rank, len(places), first.address, port, gpu)) for rank, (name, gpu) in enumerate(places)]
    answers = gather("all-reduce", collective.SECONDS + 30, calls, collective.reduce)
    said = [(0.0, answer.text) if isinstance(answer, Finding) else (answer[0], answer[1]) for answer in answers]
    yield from collective.judge(places, said, f"{first.address}:{port}")
