"""What `kubectl get` is given to print."""

from datetime import UTC, datetime

import pytest

from local.kubernetes.tables import Column, age, cell, columns_of, look_up, table, wanted

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SCALER = {
    "metadata": {"name": "digits", "creationTimestamp": "2026-01-01T23:58:00Z"},
    "spec": {"maxReplicas": 8},
    "status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "traffic": [{"latestRevision": True, "percent": 25}],
    },
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.maxReplicas", 8),
        (".status.conditions[0].status", "True"),
        ('.status.conditions[?(@.type=="Ready")].status', "True"),
        (".status.conditions[?(@.type=='Ready')].status", "True"),
        (".status.traffic[?(@.latestRevision==true)].percent", 25),
        ('.status.conditions[?(@.type=="Conflict")].status', None),
        (".status.conditions[3].status", None),
        (".spec.absent.deeper", None),
        ("$.not a path", None),
    ],
)
def test_a_path_finds_what_it_names(path, found):
    assert look_up(SCALER, path) == found


@pytest.mark.parametrize(
    ("timestamp", "written"),
    [
        ("2026-01-02T00:00:00Z", "0s"),
        ("2026-01-01T23:59:15Z", "45s"),
        ("2026-01-01T23:57:30Z", "2m30s"),
        ("2026-01-01T23:20:30Z", "39m"),
        ("2026-01-01T21:00:00Z", "3h"),
        ("2025-12-20T00:00:00Z", "13d"),
    ],
)
def test_ages_read_as_kubectl_writes_them(timestamp, written):
    assert age(timestamp, NOW) == written


def test_rows_hold_the_cells_in_the_columns_order():
    columns = columns_of([{"name": "Max", "type": "integer", "jsonPath": ".spec.maxReplicas"}])
    printed = table(columns, [SCALER], "7", NOW)
    assert [column["name"] for column in printed["columnDefinitions"]] == ["Name", "Max"]
    assert printed["rows"][0]["cells"] == ["digits", 8]
    assert printed["rows"][0]["object"]["metadata"]["name"] == "digits"
    assert [column.name for column in columns_of(None)] == ["Name", "Age"]


def test_what_is_no_text_is_written_as_json_in_a_column_of_text():
    assert cell(Column("Spec", ".spec"), SCALER, NOW) == '{"maxReplicas": 8}'
    assert cell(Column("Age", ".metadata.creationTimestamp", "date"), SCALER, NOW) == "2m"


def test_a_table_is_given_only_to_who_asks_for_it_first():
    assert wanted("application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
    assert not wanted("application/json")
    assert not wanted("application/json,application/json;as=Table")
