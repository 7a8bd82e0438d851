"""Tells a message to whom settings name, through any of Airflow's notifiers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ml_lifecycle.kserve.exceptions import NotifierError
from ml_lifecycle.kserve.message import Message
from ml_lifecycle.secrets import secret_form
from ml_lifecycle.settings import Notifier

if TYPE_CHECKING:
    from airflow.sdk import BaseNotifier

log = logging.getLogger(__name__)

# What a notifier's parameter of this name holds where settings say nothing.
DEFAULTS = {
    "subject": "{{ message.subject }}",
    "title": "{{ message.subject }}",
    "summary": "{{ message.subject }}",
    "text": "{{ message.text }}",
    "message": "{{ message.text }}",
    "message_body": "{{ message.text }}",
    "body": "{{ message.body }}",
    "html_content": "{{ message.html }}",
}


def send(notifiers: Iterable[Notifier], message: Message, context: Mapping[str, Any]) -> None:
    """Tells each of them; NotifierError after the last, if any failed. Templates see `message` and the context."""
    failures = []
    for notifier in notifiers:
        try:
            _tell(build(notifier), message, context)
        except Exception as error:  # whatever one raises, the others are told
            failures.append(f"{notifier.notifier}: {type(error).__name__}{_told(error)}")
        else:
            log.info("%s was told: %s", notifier.notifier, message.subject)
    if failures:
        raise NotifierError("; ".join(failures))


def _told(error: Exception) -> str:
    """An error's words, unless they repeat what the notifier's connection keeps: a webhook's URL, for one."""
    words = str(error)
    return " (its words carry a secret)" if secret_form(words) else f": {words}"


def build(notifier: Notifier) -> BaseNotifier:
    """The notifier that a setting describes; NotifierError names what is wrong with it."""
    kind = _imported(notifier.notifier)
    known = set(inspect.signature(kind).parameters) & set(kind.template_fields)
    defaults = {name: template for name, template in DEFAULTS.items() if name in known}
    try:
        return kind(**{**defaults, **notifier.arguments})
    except TypeError as error:
        raise NotifierError(f"does not take these arguments ({error}): correct rollout.notifiers") from error


def run_page(context: Mapping[str, Any]) -> str:
    """Address of the Airflow run."""
    from airflow.providers.common.compat.sdk import conf

    run = context["dag_run"]
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{base}/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}" if base else ""


def _imported(path: str) -> type[BaseNotifier]:
    from airflow.sdk import BaseNotifier

    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        remedy = "install its provider, or correct rollout.notifiers"
        raise NotifierError(f"cannot be imported ({error}): {remedy}") from error
    if not (isinstance(kind, type) and issubclass(kind, BaseNotifier)):
        raise NotifierError("is no subclass of airflow.sdk.BaseNotifier: name another class in rollout.notifiers")
    return kind


def _tell(notifier: BaseNotifier, message: Message, context: Mapping[str, Any]) -> None:
    """Calling a notifier would swallow its failure, and hide `message` behind a field of that name."""
    told = {**context, "message": message}
    notifier.render_template_fields(told)
    notifier.notify(told)
