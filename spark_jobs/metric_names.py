"""Names of metrics for classes of any name: MLflow and its stores take not every sign, and not every length. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

# MLflow takes 250 characters; as a file's name, which a file store makes of it, 255 bytes.
LONGEST = 250
DIGITS = 8


def class_metrics(prefix: str, classes: Iterable[str]) -> dict[str, str]:
    """For each class the name of its metric, `<prefix><class>`: each its own, and the class's name where it is taken.

    Signs that MLflow refuses become `_`. A class that loses its end, or that a store might take for another after that
    (by case or by accents as well), gets a digest of its name behind it.
    """
    classes = list(classes)
    taken = {name: re.sub(r"[^-\w. ]", "_", name) for name in classes}
    alike = Counter(_folded(name) for name in taken.values())
    most = LONGEST - len(prefix.encode())
    found = {}
    for name, short in taken.items():
        if len(short.encode()) > most or alike[_folded(short)] > 1:
            digest = hashlib.sha256(name.encode()).hexdigest()[:DIGITS]
            short = f"{short.encode()[: most - DIGITS - 1].decode(errors='ignore')}-{digest}"
        found[name] = prefix + short
    return found


def _folded(name: str) -> str:
    return "".join(
        sign for sign in unicodedata.normalize("NFKD", name).casefold() if not unicodedata.combining(sign)
    ).strip()
