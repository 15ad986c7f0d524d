"""What the workers of dead trials held, and which the sweep has to give back."""

from __future__ import annotations

from rayconvai.train.cluster import groups_of_job, remove_groups

PLACEMENT_GROUP = "placement_group"
"""The only key of a report that says which one an attempt's workers are in."""


class Groups:
    """The placement groups of the trials that are at work, for the driver.

    Ray keeps the group of a trial whose process died as long as the sweep: nobody else could have its place.
    """

    def __init__(self) -> None:
        self._of: dict[int, str] = {}
        self._orphans: list[tuple[set[str], set[int]]] = []
        """Groups of which one is a dead trial's, and the trials that may yet claim one of them."""

    def claim(self, number: int, group: str) -> None:
        """A trial has said which one is its own."""
        self._of[number] = group
        self._settle(number, group)

    def ended(self, number: int) -> None:
        """A trial has come to its end, and has given back its own."""
        self._of.pop(number, None)
        self._settle(number)

    def died(self, number: int, at_work: set[int]) -> None:
        """A trial's process has died; ``at_work``: the other trials that have one."""
        if (group := self._of.pop(number, None)) is not None:
            remove_groups([group])
            return
        # It may have died before it could say.
        found = {group for group in groups_of_job() if group not in self._of.values()}
        self._orphans.append((found, at_work - self._of.keys()))
        self._settle(number)

    def _settle(self, number: int, group: str = "") -> None:
        for found, unclaimed in self._orphans:
            found.discard(group)
            unclaimed.discard(number)
            if not unclaimed:
                remove_groups(found)
        self._orphans = [orphan for orphan in self._orphans if orphan[1]]
