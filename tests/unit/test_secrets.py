"""A secret is found by its name or its form, at any depth; ordinary settings are not taken for one."""

from __future__ import annotations

import json

import pytest

from ml_lifecycle.secrets import find_secrets, names_secret, secret_form
from ml_lifecycle.settings import parse_settings

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"

FORMS = [
    "postgresql://u:p@h/db",
    "redis://:hunter2@cache:6379/0",
    "http://alice:pw@mlflow.example.net",
    "jdbc:oracle:thin:scott/tiger@db:1521",
    "jdbc:postgresql://h/db?user=u&password=p",
    "https://0123456789abcdef0123456789abcdef@o0.ingest.example.net/1",
    "AKIA" + "A" * 16,
    "ASIA" + "B" * 16,
    "YCAJE" + "a" * 20,
    "YCM" + "b" * 37,
    "t1." + "a" * 20 + "." + "b" * 86,
    "y0_" + "c" * 55,
    "AQVN" + "d" * 36,
    "ghp_" + "1a" * 18,
    "github_pat_" + "1a" * 20,
    "https://x:glpat-" + "a1" * 10,
    "xoxb-1234567890-abcdef",
    "https://hooks.slack.com/services/T00000000/B00000000/" + "x" * 24,
    "https://chat.example.net/hooks/0123456789abcdefghijklmnop",
    "https://discord.com/api/webhooks/123456789/abc-def",
    "https://example.webhook.office.com/webhookb2/abc",
    "https://api.telegram.org/bot123456789:" + "A" * 35 + "/sendMessage",
    JWT,
    f"Authorization: Bearer {JWT}",
    "Bearer 0123456789abcdef0",
    "Basic YWxpY2U6aHVudGVyMg==",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "AIza" + "x" * 35,
    "sk-" + "a1" * 16,
    "sk_live_" + "a1" * 10,
    "hf_" + "a1" * 16,
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=abc==;EndpointSuffix=core.windows.net",
    "https://a.blob.core.windows.net/c?sv=2022&sig=abc%3D",
    "--password=hunter2",
    "-Djavax.net.ssl.keyStorePassword=hunter2",
    "export DB_PASS=hunter2",
    "user: alice\npassword: hunter2",
    'curl -H "X-Api-Key: 12345"',
]

NAMES = [
    *("DB_PASS", "API_KEY", "fs.azure.account.key", "fs.azure.account.key.acc.blob.core.windows.net", "dbPassword"),
    *(
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "fs.s3a.secret.key",
        "spark.hadoop.fs.s3a.access.key",
        "PGPASSWORD",
    ),
    *("MLFLOW_TRACKING_TOKEN", "authToken", "X-Api-Key", "Authorization", "client_secret", "clientSecret", "MYSQL_PWD"),
    *("spark.authenticate.secret", "ssl.key.password", "session-token", "apikey", "private_key", "password2", "Cookie"),
    *(
        "fs.azure.account.oauth2.client.secret.acc.dfs.core.windows.net",
        "password_value",
        "smtp_password",
        "AccountKey",
    ),
]

NO_NAMES = [
    *("secret_id", "secretName", "token_url", "password_file", "fs.s3a.aws.credentials.provider", "max_tokens", "key"),
    *("tokenizer", "hadoop.security.credential.provider.path", "bypass", "compass", "spark.executor.cores", "keys"),
    *(
        "slack_conn_id",
        "secret_ref",
        "passes",
        "kms_key_id",
        "api_key_id",
        "token_ttl",
        "monkey",
        "access",
        "primary_key",
    ),
    *("spark.hadoop.fs.s3a.endpoint", "spark.kerberos.access.hadoopFileSystems", "spark.sql.shuffle.partitions"),
]

ORDINARY = [
    "s3://bucket/models/digits/7",
    "s3a://bucket/a:b@c/d",
    "file:///home/me/my lake",
    "arn:aws:iam::123456789012:role/training",
    "arn:aws:secretsmanager:eu-west-1:123456789012:secret:database-AbCdEf",
    "sha256:" + "0123456789abcdef" * 4,
    "0123456789abcdef" * 4,
    "cr.yandex/crp0123456789/serving@sha256:" + "ab" * 32,
    "docker.io/library/python:3.11@sha256:" + "cd" * 32,
    "https://mlflow.example.net:5000/path?team=vision",
    "git@github.com:org/repository.git",
    "alice@example.net",
    "user:alice@example.net",
    'sum(rate(answers_total{pod=~"$pods",kind="empty"}[$window]))',
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0123456789abcdefghijklmnopqrstuvwxyzABCDE alice@example.net",
    "2026-12-01T06:30Z",
    "Basic authentication stands in the connection",
    "the bearer of bad news",
    "see the password in the vault",
    "e6q0123456789abcdefg",
    "airflow.providers.slack.notifications.slack_webhook.SlackWebhookNotifier",
    "-XX:+UseG1GC -Dfile.encoding=UTF-8",
    "--tokens=128 --key=label",
    "password=",
    "token=***",
    "",
]


@pytest.mark.parametrize("text", FORMS)
def test_a_secret_is_known_by_its_form(text):
    (found,) = find_secrets({"a": [{"b": text}]})
    assert found.where == "a[0].b"


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_is_known_by_the_name_it_stands_under(name):
    assert names_secret(name)
    (found,) = find_secrets({name: "hunter2"})
    assert found.where == name


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_said_about_a_secret_is_none(name):
    assert find_secrets({name: "vault"}) == []


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_values_of_settings_are_no_secrets(text):
    assert find_secrets({"value": text}) == []


def test_no_default_setting_is_taken_for_a_secret():
    document = {"defaults": {"data_lake": "s3://bucket/lake", "cluster": {"secret_id": "e6q0", "folder_id": "b1g0"}}}
    assert find_secrets(parse_settings(document, "digits").model_dump(mode="json")) == []


@pytest.mark.parametrize("value", [None, True, False, "", "***", "null"])
def test_a_switch_or_nothing_under_a_secrets_name_is_none(value):
    assert find_secrets({"password": value}) == []


def test_a_number_under_a_secrets_name_is_one():
    assert find_secrets({"password": 12345}) != []


def test_a_secret_is_found_however_deep_it_lies():
    value: object = {"headers": {"Authorization": "x"}}
    for _ in range(3_000):
        value = [value]
    (found,) = find_secrets(value)
    assert found.where.endswith(".headers.Authorization")


@pytest.mark.parametrize(
    "value",
    [
        [{"name": "DB_PASS", "value": "hunter2"}],
        ["train.py", "--password", "hunter2"],
        {"token": {"value": "hunter2"}},
        {"passwords": ["hunter2"]},
        json.dumps({"inner": json.dumps({"api_key": "hunter2"})}),
        b'{"api_key": "hunter2"}',
        ("--conf", "spark.hadoop.fs.azure.account.key.a.blob.core.windows.net=hunter2"),
    ],
)
def test_a_secret_is_found_in_the_ways_in_which_programs_write_it(value):
    assert len(find_secrets(value)) == 1


@pytest.mark.parametrize("value", [["--password", "--verbose"], [{"name": "DB_PASS", "valueFrom": {"name": "vault"}}]])
def test_a_reference_to_a_secret_is_none(value):
    assert find_secrets(value) == []


@pytest.mark.parametrize("text", FORMS)
def test_a_finding_never_repeats_the_secret(text):
    told = " ".join(map(str, find_secrets({"a": text, "b": {text: 1}, "c": {"password": text}})))
    assert text not in told
    assert "hunter2" not in told


def test_text_without_a_secret_has_no_form():
    assert secret_form("accuracy 0.99 after epoch 3") is None
