"""Finds the files that travel with the package: `k8s_templates/`, `spark_jobs/` and `serving/`.

In the checkout they lie beside `plugins/`; in the bundle and the wheel they lie in `ml_lifecycle/resources/`.
"""

from __future__ import annotations

from pathlib import Path

from ml_lifecycle.exceptions import ResourceMissingError

_PACKAGE = Path(__file__).resolve().parent
_ROOTS = (_PACKAGE / "resources", _PACKAGE.parent.parent)


def resource(relative: str) -> Path:
    """Path of the file or folder `relative` (say `k8s_templates/mlscaler.yaml`); ResourceMissingError if absent."""
    for root in _ROOTS:
        if (root / relative).exists():
            return root / relative
    looked_in = ", ".join(str(root) for root in _ROOTS)
    raise ResourceMissingError(f"{relative!r} is not in this installation (looked in {looked_in}): run `make bundle`")
