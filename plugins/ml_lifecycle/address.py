"""Addresses of servers as people write them into connections. Pure; for all domains (Prometheus, MLflow).

A connection's host may hold `user:password@`. It is taken out here, once, so that the address can stand in messages,
links, Leases and XComs.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True)
class Credentials:
    """A user's name and password; `repr` shows neither."""

    login: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(…)"


def without_credentials(address: str) -> tuple[str, Credentials | None]:
    """`https://user:password@host/path` as `https://host/path` and what was taken out; None where there was nothing.

    The scheme may be missing. Percent signs in user and password are decoded, as browsers do.
    """
    scheme, separator, rest = address.partition("://") if "://" in address else ("", "", address)
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    userinfo, found, host = rest[:end].rpartition("@")
    if not found:
        return address, None
    login, _, password = userinfo.partition(":")
    return f"{scheme}{separator}{host}{rest[end:]}", Credentials(unquote(login), unquote(password))
