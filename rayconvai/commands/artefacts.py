"""Artefacts that commands use."""

from __future__ import annotations

from typing import Any


def restore(artefact: str, ability: str, lack: str) -> Any:
    """Return the model of an artefact, a directory or an address.

    Args:
        artefact: where it is.
        ability: the method that the command calls.
        lack: what a model without it is or does not do, for the message.

    Raises:
        ArtefactError: it is damaged, or has no such method.
    """
    from rayconvai.core.model import Model  # torch and lightning take seconds: a wrong call does not pay for them
    from rayconvai.errors import ArtefactError
    from rayconvai.experiment.mirror import fetched

    model = Model.restore_from(fetched(artefact))
    if not hasattr(model, ability):
        raise ArtefactError(f"{artefact} holds a {type(model).__name__}, which {lack}")
    return model
