"""How Kubernetes and Knative call the pods of a Deployment; regular expressions that fit these and no others. Pure.

A ReplicaSet is `<deployment>-<hash>`, its pods are `<replica set>-` cut at 58 characters and five random ones. The hash
is a 32-bit number in decimal, so up to ten characters, each written as one of Kubernetes' safe alphabet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

LONGEST_NAME = 63
_RANDOM = 5
_LONGEST_HASH = 10
_CUT = LONGEST_NAME - _RANDOM
# Kubernetes' safe alphabet (k8s.io/apimachinery/pkg/util/rand): neither vowels nor what looks like them.
SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SAFE = f"[{SAFE_ALPHABET}]"
_REVISIONS_DEPLOYMENT = "-deployment"


def pods_of(deployments: Iterable[str]) -> str:
    """A regular expression (RE2 and Python, to be anchored) that fits the pods of these Deployments.

    `#` in a Deployment's name stands for one digit. One name fits exactly unless it has more than 58 characters: of
    such a name Kubernetes keeps the first 58.
    """
    return "|".join(_pods(name) for name in dict.fromkeys(deployments))


def revision_deployment(revision: str) -> str:
    """The Deployment of a Knative Revision; a name that is too long is Knative's digest of it (`kmeta.ChildName`)."""
    if len(revision) + len(_REVISIONS_DEPLOYMENT) <= LONGEST_NAME:
        return revision + _REVISIONS_DEPLOYMENT
    digest = hashlib.md5(revision.encode(), usedforsecurity=False).hexdigest()
    return revision[: LONGEST_NAME - len(digest) - len(_REVISIONS_DEPLOYMENT)] + digest + _REVISIONS_DEPLOYMENT


def predictor_deployment(side: str) -> str:
    """The Deployment of a side of a rollout: in Standard mode the predictor's own, in Knative mode the Revision's."""
    return side if side.endswith("-predictor") else revision_deployment(side)


def _pods(deployment: str) -> str:
    """A hash that has place for itself and its hyphen is whole; a longer one is cut, and takes the hyphen's place."""
    base, room = f"{deployment}-", _CUT - len(deployment) - 1
    random = f"{_SAFE}{{{_RANDOM}}}"
    if room <= 0:
        return _written(base[:_CUT]) + random
    shapes = [f"{_SAFE}{{1,{min(room - 1, _LONGEST_HASH)}}}-"] if room > 1 else []
    shapes += [f"{_SAFE}{{{room}}}"] if room <= _LONGEST_HASH else []
    found = shapes[0] if len(shapes) == 1 else f"(?:{'|'.join(shapes)})"
    return _written(base) + found + random


def _written(name: str) -> str:
    """Digits for `#`; a dot, which a Deployment's name may have, is only itself."""
    return name.replace(".", "[.]").replace("#", "[0-9]")
