"""The ids by which services know a run, kept in its directory: over all restarts it is one run there."""

from __future__ import annotations

import hashlib
import json
import re

from rayconvai.experiment.layout import RunLayout, write_atomically


class LoggerIds:
    """Reads and writes loggers.json."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout

    def get(self, service: str) -> str | None:
        """Return the id that a service knows the run by; None if there is none."""
        try:
            found = json.loads(self._layout.logger_ids.read_text(encoding="utf-8")).get(service)
        except (OSError, ValueError, AttributeError):
            return None
        return None if found is None else str(found)

    def put(self, service: str, name: str) -> None:
        """Keep an id.

        Raises:
            StorageError: the file cannot be written.
        """
        path = self._layout.logger_ids
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if known.get(service) != name:
            write_atomically(path, json.dumps({**known, service: name}))

    def own(self, service: str) -> str:
        """Return the run's id, made from its directory if it has none; a new run in an old directory gets a new one."""
        if (kept := self.get(service)) is not None:
            return kept
        root = self._layout.root
        runs_before = sum(1 for _ in root.glob(f"run_*/{self._layout.logger_ids.name}"))
        digest = hashlib.sha256(f"{root}:{runs_before}".encode()).hexdigest()[:8]
        name = f"{re.sub('[^A-Za-z0-9_.-]+', '-', root.name)}-{digest}"
        self.put(service, name)
        return name
