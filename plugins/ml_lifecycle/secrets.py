"""Finds secrets where people who may not have them could read them: settings, jobs, notifiers. Pure.

A secret is known by the name it is given under (`DB_PASS`, `headers.Authorization`, `--api-key x`) or by its own form
(a token, a private key, a password in a URL), however deep it lies, in JSON within a string too. No finding repeats it.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Words that end the name of a secret; the longer ones also as the end of a word, as in PGPASSWORD.
LAST_WORDS = ("pass", "pwd", "authorization", "cookie", "sig", "credential", "credentials", "passcode", "webhook")
WORD_ENDS = ("password", "passwords", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "secretkey")
# Words that name a secret wherever they stand together, as in `fs.azure.account.key.<account>`.
PAIRS = tuple(
    (kind, "key")
    for kind in ("access", "account", "api", "auth", "encryption", "master", "private", "secret", "shared")
) + (("client", "secret"), ("signing", "key"), ("storage", "key"), ("webhook", "url"))
# After such a word they name what is said about a secret: its id, where it lies, how long it lives.
ABOUT = frozenset(
    {
        *("alias", "class", "conn", "connection", "count", "enabled", "endpoint", "expires", "expiry", "field"),
        *("file", "folder", "id", "kind", "length", "limit", "manager", "name", "namespace", "path"),
        *("policy", "provider", "ref", "reference", "source", "ttl", "type", "uri", "url", "version"),
    }
)
# Below a secret's name such a key holds the secret itself; as the last word of a name they change nothing.
ITSELF = frozenset({"b64", "base64", "data", "plain", "raw", "string", "text", "val", "value"})
FORMS: Mapping[str, re.Pattern[str]] = {
    "a private key": re.compile(r"BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File"),
    "a password in a URL": re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^/\s:@?#'\"]*:[^/\s@'\"]+@|:thin:[^/\s]+/[^@\s]+@"),
    "a key in a URL": re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://(?=[^/@\s]*\d)[\w.~-]{20,}@"),
    "a Yandex key or token": re.compile(
        r"\bYCAJE[-\w]{20}|\bYC[MNOP][-\w]{37}|\bt1\.[-\w]+={0,2}\.[-\w]{86}|\by[0-3]_[-\w]{50,}|\bAQVN[-\w]{35,}"
    ),
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub or GitLab token": re.compile(r"\bgh[pousr]_[0-9A-Za-z]{36,}|\bgithub_pat_\w{22,}|\bglpat-[-\w]{20,}"),
    "a Slack token or webhook": re.compile(r"\bxox[a-z]-[-\w]{10,}|\bhooks\.slack\.com/\w+/\w{6,}/\S+"),
    "a chat's webhook or bot token": re.compile(
        r"\bdiscord(app)?\.com/api/webhooks/\d+/\S+|\bwebhook\.office\.com/webhookb2/\S+|(?<!\d)\d{8,10}:[-\w]{35}\b|/hooks/[0-9a-z]{20,}"
    ),
    "a JSON web token": re.compile(r"\beyJ[-\w]{8,}\.eyJ[-\w]{8,}\."),
    "a Google key or token": re.compile(r"\bAIza[-\w]{35}|\bya29\.[-\w]{20,}|\bGOCSPX-[-\w]{20,}"),
    "a service's token": re.compile(
        r"\bsk-[-\w]{20,}|\bhf_[0-9A-Za-z]{30,}|\b[rs]k_(live|test)_\w{16,}|\bnpm_\w{36}|\bpypi-[-\w]{50,}"
        r"|\bSG\.[-\w]{16,}\.[-\w]{16,}|\bdapi[0-9a-f]{32}|\bhv[bs]\.[-\w]{20,}|\bdckr_pat_[-\w]{20,}"
    ),
    "a bearer token": re.compile(r"(?i:\bbearer)\s+(?=\S*(\d|[a-z][A-Z]))[-\w.~+/]{16,}=*"),
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_BASIC = re.compile(r"(?i:\bbasic)\s+([0-9A-Za-z+/]{8,}={0,2})")
# `name=value` anywhere, and `name: value` where a line, a header or an entry begins.
_ASSIGNED = (
    re.compile(r"""(?:(?<![\w.-])|(?<=-D)|(?<=--))([A-Za-z][\w.-]*)["']?\s*=\s*["']?([^\s"'&;,]+)"""),
    re.compile(r"""(?:^|[\n{,;"'])\s*([A-Za-z][\w.-]*)["']?\s*:\s*["']?([^\s"',;{}\[\]]+)"""),
)
_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)")


@dataclass(frozen=True)
class FoundSecret:
    """Where a secret lies (`arguments.headers.Authorization`, empty: the value itself), and how it is known."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where or 'the value'} carries {self.what}"


def find_secrets(value: Any, where: str = "") -> list[FoundSecret]:
    """Every secret in `value`: text, or mappings and sequences of any depth. `where` is said before their places."""
    found: dict[str, FoundSecret] = {}
    # A stack of its own, because what people write may lie deeper than Python calls itself.
    left: list[tuple[str, Any, bool]] = [(where, value, False)]
    while left:
        place, item, named = left.pop()
        if isinstance(item, bytes):
            item = item.decode(errors="replace")
        if named and _holds(item):
            found[place] = FoundSecret(place, "what its name says is secret")
        elif isinstance(item, str):
            document = _document(item)
            if document is not None:
                left.append((place, document, named))
            elif what := secret_form(item):
                found[place] = FoundSecret(place, what)
        elif isinstance(item, Mapping):
            left.extend(_entries(place, item, named=named))
        elif isinstance(item, Iterable):
            left.extend(_elements(place, item, named=named))
    return sorted(found.values(), key=lambda secret: secret.where)


def names_secret(name: str) -> bool:
    """Whether what stands under this name, in any spelling, is a secret: `dbPassword`, `X-Api-Key`, `DB_PASS`."""
    words = [word.lower() for word in _WORD.findall(name)]
    while words and (words[-1] in ITSELF or words[-1].isdigit()):
        words.pop()
    for index, pair in enumerate(itertools.pairwise(words)):
        after = words[index + 2] if index + 2 < len(words) else ""
        if pair in PAIRS and (after not in ABOUT or (pair, after) == (("access", "key"), "id")):
            return True
    return bool(words) and (words[-1] in LAST_WORDS or words[-1].endswith(WORD_ENDS))


def secret_form(text: str) -> str | None:
    """What kind of secret stands in a text, by its form or by a name beside it; None: none that is known."""
    for what, form in FORMS.items():
        if form.search(text):
            return what
    if any(_is_login(match[1]) for match in _BASIC.finditer(text)):
        return "a login"
    assigned = (match for form in _ASSIGNED for match in form.finditer(text))
    if any(names_secret(match[1]) and _holds(match[2]) for match in assigned):
        return "what is named as a secret in it"
    return None


def _holds(item: Any) -> bool:
    """Whether an item under a secret's name can be one: no switch, nothing empty, nothing masked."""
    if isinstance(item, str):
        return item.strip("* ") != "" and item.lower() not in ("none", "null", "true", "false")
    return isinstance(item, int | float) and not isinstance(item, bool)


def _document(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _entries(place: str, item: Mapping[Any, Any], *, named: bool) -> Iterator[tuple[str, Any, bool]]:
    # {"name": "DB_PASS", "value": …}, as Kubernetes and lists of headers write it.
    label = next((item[key] for key in ("name", "key", "header") if isinstance(item.get(key), str)), "")
    pair = names_secret(label)
    for key, value in item.items():
        text = str(key)
        itself = text.lower() in ITSELF
        if secret_form(text):
            text = "(a key)"
            yield f"{place}.{text}".lstrip("."), str(key), False
        yield f"{place}.{text}".lstrip("."), value, names_secret(text) or (itself and (named or pair))


def _elements(place: str, items: Iterable[Any], *, named: bool) -> Iterator[tuple[str, Any, bool]]:
    option = False
    for index, item in enumerate(items):
        # ["--password", "x"], as command lines write it.
        follows = option and not (isinstance(item, str) and item.startswith("-"))
        yield f"{place}[{index}]", item, named or follows
        match = _OPTION.fullmatch(item) if isinstance(item, str) else None
        option = match is not None and names_secret(match[1])


def _is_login(encoded: str) -> bool:
    try:
        return b":" in base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        return False
