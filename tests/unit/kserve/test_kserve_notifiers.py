"""Notifiers as settings name them: Airflow's own by mail to a real SMTP server, and any subclass of BaseNotifier."""

import asyncio
import email
import json
import threading
from contextlib import contextmanager
from email.policy import default

import pytest
from airflow.sdk import BaseNotifier

from ml_lifecycle.kserve.exceptions import NotifierError
from ml_lifecycle.kserve.message import Message
from ml_lifecycle.kserve.notifiers import send
from ml_lifecycle.settings import Notifier

MESSAGE = Message("digits version 2 was rolled back", "Why: 60 < 575 & {{ more }}\n\nNext:\n- train again\n")
HERE = __name__


class Recorder(BaseNotifier):
    """Keeps what it is told; `text` and `channel` are templates, `mode` is none."""

    template_fields = ("text", "message", "channel")
    told: list = []  # noqa: RUF012

    def __init__(self, text="unset", message="unset", channel="", mode="plain"):
        super().__init__()
        self.text, self.message, self.channel, self.mode = text, message, channel, mode

    def notify(self, context):
        self.told.append((self.text, self.message, self.channel, self.mode, context["message"]))


class Broken(BaseNotifier):
    def notify(self, context):
        raise ConnectionError("nobody listens")


@pytest.fixture(autouse=True)
def told():
    Recorder.told.clear()
    return Recorder.told


@contextmanager
def mail_server(received):
    """A real SMTP server on loopback, as far as one mail needs it."""

    async def serve(reader, writer):
        writer.write(b"220 test\r\n")
        while line := (await reader.readline()).decode().strip():
            if line.upper().startswith("DATA"):
                writer.write(b"354 go on\r\n")
                received.append(await reader.readuntil(b"\r\n.\r\n"))
            writer.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 fine\r\n")
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def test_a_mail_arrives_through_airflows_own_notifier(monkeypatch):
    received = []
    with mail_server(received) as port:
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.org"}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_PLATFORM_MAIL", json.dumps(connection))
        path = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
        arguments = {"to": "team@example.org", "smtp_conn_id": "platform_mail"}
        send([Notifier(notifier=path, arguments=arguments)], MESSAGE, {})
    mail = email.message_from_bytes(received[0], policy=default)
    assert (mail["Subject"], mail["To"], mail["From"]) == (MESSAGE.subject, "team@example.org", "airflow@example.org")
    text = mail.get_body(("html",)).get_content().replace("\r\n", "\n")
    assert text.strip() == MESSAGE.html.strip()


def test_what_settings_leave_out_is_the_message_and_what_they_say_stays(told):
    arguments = {"message": "{{ message.subject }}!", "channel": "#{{ dag_id }}", "mode": "{{ kept }}"}
    send([Notifier(notifier=f"{HERE}.Recorder", arguments=arguments)], MESSAGE, {"dag_id": "roll_out_model"})
    assert told == [(MESSAGE.text, f"{MESSAGE.subject}!", "#roll_out_model", "{{ kept }}", MESSAGE)]


def test_one_that_fails_is_named_and_the_others_are_told(told):
    notifiers = [Notifier(notifier=f"{HERE}.{name}") for name in ("Broken", "Recorder")]
    with pytest.raises(NotifierError, match=r"Broken: ConnectionError: nobody listens$"):
        send(notifiers, MESSAGE, {})
    assert len(told) == 1


@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        ("no.such.module.Notifier", {}, "No module named 'no'.*install its provider"),
        (f"{HERE}.Nobody", {}, "Nobody.*install its provider, or correct rollout.notifiers"),
        ("json.JSONDecoder", {}, "is no subclass of airflow.sdk.BaseNotifier"),
        (f"{HERE}.Recorder", {"colour": "red"}, "colour.*correct rollout.notifiers"),
    ],
)
def test_what_cannot_be_built_says_what_to_mend(path, arguments, said):
    with pytest.raises(NotifierError, match=said):
        send([Notifier(notifier=path, arguments=arguments)], MESSAGE, {})
