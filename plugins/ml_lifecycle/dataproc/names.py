"""Names and labels as Yandex allows them."""

from __future__ import annotations

import hashlib
import re

RESOURCE_NAME = re.compile(r"[a-z][-a-z0-9]{1,61}[a-z0-9]")
LABEL_KEY = re.compile(r"[a-z][-_0-9a-z]{0,62}")
LABEL_VALUE = re.compile(r"[-_0-9a-z]{0,63}")
LABEL_LENGTH = 63


def digest(*parts: str) -> str:
    """Ten hexadecimal digits that tell these parts from any others."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def label_value(text: str) -> str:
    """`text` as a label value: lower case, `[-_0-9a-z]*`, at most 63; what had to be cut keeps its digest."""
    value = re.sub(r"[^-_0-9a-z]", "-", text.lower())
    return value if len(value) <= LABEL_LENGTH else f"{value[: LABEL_LENGTH - 11]}-{digest(text)}"
