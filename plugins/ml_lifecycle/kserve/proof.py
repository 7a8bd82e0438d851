"""What a rollout that another run left may make of a service: only what settings or the live service confirm. Pure.

A Lease is a word that anybody may write who may write Leases in its namespace. Whoever goes on with a rollout that is
not its own does so with another's word and its own rights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ml_lifecycle.kserve.predictor import Predictor
from ml_lifecycle.kserve.revisions import Service
from ml_lifecycle.kserve.rollout import RolloutState

_OUR_RUNTIME = re.compile(r"ml-lifecycle-[0-9a-f]{10}")
_VERSION = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]*")
_CONFIRMED = ("service_account", "logger", "node_selector", "tolerations", "security_context")


def unproven(state: RolloutState, live: Service, expected: Predictor | None) -> str:
    """Why what the state would have served is not to be believed; empty where all of it is confirmed.

    `expected` is what settings make of the model, at any of its versions; None: they are not known, and the live
    service alone confirms. Versions lie side by side; our own runtimes bear the hash of what they are.
    """
    known = [one for one in (live.predictor, live.canary, expected) if one is not None]
    for wanted in (state.candidate, state.stable, state.stood):
        if wanted is not None and (reason := _unproven(wanted, known)):
            return f"{reason}: neither settings nor the live service say so"
    return ""


def _unproven(wanted: Predictor, known: Iterable[Predictor]) -> str:
    folder, _, version = wanted.storage_uri.rpartition("/")
    known = list(known)
    if folder not in {one.storage_uri.rpartition("/")[0] for one in known} or not _VERSION.fullmatch(version):
        return f"the Lease names storageUri {wanted.storage_uri!r}"
    if wanted.runtime not in {one.runtime for one in known} and not _OUR_RUNTIME.fullmatch(wanted.runtime):
        return f"the Lease names runtime {wanted.runtime!r}"
    for field in _CONFIRMED:
        if getattr(wanted, field) not in [getattr(one, field) for one in known]:
            return f"the Lease names {field} {getattr(wanted, field)!r}"
    return ""
