"""What goes wrong on the laptop, said in one sentence."""

from __future__ import annotations


class StackError(Exception):
    """A part of the stack does not do what it must; the message says which, why and where its log is."""
