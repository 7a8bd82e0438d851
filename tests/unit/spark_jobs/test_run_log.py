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


def test_a_server_that_does_not_take_the_params_is_not_trained_without(server, monkeypatch):
    monkeypatch.setattr(run_log, "BEGIN_SECONDS", 0.1)
    log = RunLog("http://server", "run")
    server.free.clear()
    log.params({"seed": 1})
    with pytest.raises(TrainingError, match=r"has not taken the params of run run for 0 s: nothing was trained"):
        log.begun()
    server.free.set()


@pytest.mark.slow
def test_other_params_than_the_runs_are_refused_before_the_first_step(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = MlflowClient(uri).create_run("0").info.run_id
    first = RunLog(uri, run_id)
    first.params({"batch_size": 20})
    first.begun()
    first.close()
    again = RunLog(uri, run_id)
    again.params({"batch_size": 10})
    with pytest.raises(TrainingError, match=r"batch_size.*Nothing was trained\. Trigger train_model anew"):
        again.begun()


def test_a_training_asks_the_run_before_its_first_step():
    from types import SimpleNamespace

    from spark_jobs.training_report import TrainingReport

    class Refusing:
        def params(self, params):
            pass

        def dataset(self, dataset, profile):
            pass

        def begun(self):
            raise TrainingError("other values")

    dataset = SimpleNamespace(train_images=1, holdout_images=1, classes=["a"])
    with pytest.raises(TrainingError, match="other values"):
        TrainingReport(Refusing()).beginning({"seed": 1}, dataset)
