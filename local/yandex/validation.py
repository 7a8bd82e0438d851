"""Checks a request against the annotations that Yandex's own protos carry: required, pattern, length, size, value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from yandex.cloud import validation_pb2 as annotations


def violations(message: Message, path: str = "") -> Iterator[str]:
    """What is wrong with `message`, one sentence a field, its nested messages included."""
    for field in message.DESCRIPTOR.fields:
        where = f"{path}{field.name}"
        options = field.GetOptions()
        value = getattr(message, field.name)
        if options.Extensions[annotations.required] and not _is_set(message, field):
            yield f"{where}: is required"
        elif _is_map(field):
            yield from _map(value, options, where)
        elif field.is_repeated:
            yield from _repeated(value, options, where)
        elif field.message_type is None:
            yield from _scalar(value, options, where)
        elif message.HasField(field.name):
            yield from _duration(value, options, where) if _is_duration(field) else violations(value, f"{where}.")


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _is_duration(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.Duration"


def _is_set(message: Message, field: FieldDescriptor) -> bool:
    if field.message_type is not None and not field.is_repeated:
        return message.HasField(field.name)
    return bool(getattr(message, field.name))


def _map(entries: Any, options: Any, where: str) -> Iterator[str]:
    yield from _size(len(entries), options, where)
    keys = options.Extensions[annotations.map_key]
    for key, value in entries.items():
        if keys.pattern and not re.fullmatch(keys.pattern, key):
            yield f"{where}: key {key!r} does not match {keys.pattern}"
        if keys.length and not _within(len(key), keys.length):
            yield f"{where}: key {key!r} must have a length of {keys.length}"
        yield from _scalar(value, options, f"{where}.{key}")


def _repeated(items: Any, options: Any, where: str) -> Iterator[str]:
    yield from _size(len(items), options, where)
    for index, item in enumerate(items):
        name = f"{where}[{index}]"
        yield from violations(item, f"{name}.") if isinstance(item, Message) else _scalar(item, options, name)


def _size(size: int, options: Any, where: str) -> Iterator[str]:
    limit = options.Extensions[annotations.size]
    if limit and not _within(size, limit):
        yield f"{where}: number of elements must be {limit}, is {size}"


def _scalar(value: Any, options: Any, where: str) -> Iterator[str]:
    pattern = options.Extensions[annotations.pattern]
    length = options.Extensions[annotations.length]
    limit = options.Extensions[annotations.value]
    if isinstance(value, str):
        if pattern and not re.fullmatch(pattern, value):
            yield f"{where}: {value!r} does not match {pattern}"
        if length and not _within(len(value), length):
            yield f"{where}: length must be {length}, is {len(value)}"
    # An unset number is 0 in proto3, which the annotation of a field that is not required does not mean.
    elif limit and value and not _within(float(value), limit):
        yield f"{where}: must be {limit}, is {value}"


def _duration(value: Any, options: Any, where: str) -> Iterator[str]:
    limit = options.Extensions[annotations.value]
    if limit and not _within(value.seconds, limit):
        yield f"{where}: must be {limit}, is {value.seconds} s"


def _within(value: float, limit: str) -> bool:
    """Whether `value` satisfies an annotation's limit: `<=50`, `<2048`, `>=1`, `1-63`, `1m-10m` (in seconds)."""
    if match := re.fullmatch(r"(<=|<|>=|>)(.+)", limit):
        bound = _number(match[2])
        return {"<=": value <= bound, "<": value < bound, ">=": value >= bound, ">": value > bound}[match[1]]
    low, _, high = limit.partition("-")
    return _number(low) <= value <= _number(high or low)


def _number(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    return float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text)
