import pytest

from ml_lifecycle.address import Credentials, without_credentials


@pytest.mark.parametrize(
    ("address", "left", "credentials"),
    [
        ("https://alice:pw@host:1/path", "https://host:1/path", Credentials("alice", "pw")),
        ("alice:pw@host/path", "host/path", Credentials("alice", "pw")),
        ("https://alice:p@w@host", "https://host", Credentials("alice", "p@w")),
        ("https://alice:p%2Fw@host", "https://host", Credentials("alice", "p/w")),
        ("https://token@host?a=b@c", "https://host?a=b@c", Credentials("token", "")),
        ("https://host/a@b", "https://host/a@b", None),
        ("", "", None),
    ],
)
def test_credentials_are_taken_out_of_an_address(address, left, credentials):
    assert without_credentials(address) == (left, credentials)


def test_credentials_do_not_show_themselves():
    assert "pw" not in repr(Credentials("alice", "pw"))
