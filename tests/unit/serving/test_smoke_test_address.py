"""Where the smoke test connects: past the gateway for names of the cluster itself, where they resolve."""

import socket

import pytest

from serving.smoke_test import Endpoint

OWN, TAG = "http://digits-v2-predictor.models.svc.cluster.local", "http://latest-digits.example.com"
GATEWAY = "http://10.0.0.1:8080"


@pytest.mark.parametrize(
    ("url", "connect", "resolves", "address"),
    [
        (OWN, GATEWAY, True, "digits-v2-predictor.models.svc.cluster.local"),
        (OWN, GATEWAY, False, "10.0.0.1:8080"),
        (OWN, None, False, "digits-v2-predictor.models.svc.cluster.local"),
        (TAG, GATEWAY, True, "10.0.0.1:8080"),
        (TAG, None, True, "latest-digits.example.com"),
    ],
)
def test_the_gateway_is_for_names_that_only_it_knows(monkeypatch, url, connect, resolves, address):
    def lookup(*_):
        if not resolves:
            raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert Endpoint(url, connect)._address.netloc == address
