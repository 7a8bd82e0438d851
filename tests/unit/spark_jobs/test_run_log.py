import threading

import pytest

from spark_jobs import run_log
from spark_jobs.exceptions import TrainingError
from spark_jobs.run_log import RunLog


class Server:
    """Takes what MLflow's client sends, or refuses it."""

    def __init__(self):
        self.metrics, self.params, self.requests = [], {}, 0
        self.failing = 0
        self.free = threading.Event()
        self.free.set()

    def log_batch(self, run_id, metrics=(), params=()):
        self.free.wait(10)
        self.requests += 1
        if self.failing:
            self.failing -= 1
            raise ConnectionError("the server is away")
        self.metrics += [(metric.key, metric.value, metric.step) for metric in metrics]
        self.params |= {param.key: param.value for param in params}


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(RunLog, "_connect", lambda self, uri: setattr(self, "_client", server))
    return server


def test_metrics_wait_for_a_slow_server_and_go_in_one_request(server):
    log = RunLog("http://server", "run")
    server.free.clear()
    log.params({"seed": 1})
    for step in range(5):
        log.metrics({"loss": 1.0 / (step + 1)}, step)
    assert server.metrics == []
    server.free.set()
    log.close()
    assert server.params == {"seed": "1"}
    assert [step for _, _, step in server.metrics] == [0, 1, 2, 3, 4]
    assert server.requests < 6


def test_metrics_that_were_refused_are_sent_again(server, capsys):
    log = RunLog("http://server", "run")
    server.failing = 1
    log.metrics({"loss": 2.0}, 1)
    while server.failing:
        pass
    log.check()
    log.metrics({"loss": 1.0}, 2)
    log.close()
    assert server.metrics == [("loss", 2.0, 1), ("loss", 1.0, 2)]
    assert "metrics will be sent again: the server is away" in capsys.readouterr().out


def test_a_server_that_stays_away_fails_the_end_and_not_the_training(server):
    log = RunLog("http://server", "run")
    server.failing = 100
    log.metrics({"loss": 2.0}, 1)
    log.check()
    with pytest.raises(TrainingError, match=r"metrics of run run could not be logged: the server is away"):
        log.close()


def test_a_run_that_takes_no_params_fails_at_the_next_check(server):
    log = RunLog("http://server", "run")
    server.failing = 1
    log.params({"seed": 1})
    with pytest.raises(ConnectionError):
        log.close()
    with pytest.raises(ConnectionError):
        log.check()


def test_a_server_that_never_answers_holds_nobody_for_ever(server, monkeypatch):
    monkeypatch.setattr(run_log, "CLOSE_SECONDS", 0.1)
    log = RunLog("http://server", "run")
    server.free.clear()
    log.metrics({"loss": 2.0}, 1)
    with pytest.raises(TrainingError, match="has not answered for 0 s"):
        log.close()
    server.free.set()
