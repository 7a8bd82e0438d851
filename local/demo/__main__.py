"""`python -m local.demo`: up, the story, the summary, down; whatever happens, nothing is left running."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

from local.demo.figures import Catch, Figures
from local.demo.narrator import Narrator
from local.demo.story import FIRST_VERSION, Story
from local.demo.summary import show
from local.stack.environment import real
from local.stack.exceptions import StackError
from local.stack.layout import REPOSITORY
from local.stack.stack import Stack

PATIENCE_SECONDS = 120.0


def main() -> int:
    """Run the demo; the exit status is 0 when all of it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m local.demo")
    parser.add_argument("--dataset", type=Path, help="image folder of your own, <class>/<file>.png or .jpg")
    parser.add_argument("--bad-canary", action="store_true", help="show a bad version being caught")
    parser.add_argument(
        "--picture", type=Path, help="write the picture of the last rollout's evidence to this SVG file"
    )
    arguments = parser.parse_args()
    # Ctrl-C as well: a shell that starts the demo in the background has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    narrator, stack = Narrator(), Stack()
    started = time.monotonic()
    try:
        _check_possible(stack, bad_canary=arguments.bad_canary)
        with Guard():
            try:
                story = _tell(stack, narrator, arguments.dataset, bad_canary=arguments.bad_canary, started=started)
                if arguments.picture:
                    arguments.picture.write_text(story.picture())
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                stack.down()
    except StackError as error:
        narrator.console.print(f"\n[red]The demo failed:[/red] {error}\nLogs: {stack.layout.logs}", soft_wrap=True)
        return 1
    except Exception as error:  # whatever it was, the newcomer gets one sentence and the log gets the rest
        log = stack.layout.logs / "demo.log"
        log.write_text(traceback.format_exc())
        narrator.console.print(
            f"\n[red]The demo failed:[/red] {type(error).__name__}: {error}\nLog: {log}", soft_wrap=True
        )
        return 1
    except KeyboardInterrupt:
        narrator.console.print("\nstopped; nothing is left running")
        return 130
    if left := stack.alive():
        narrator.console.print(f"[red]still running: {', '.join(process.name for process in left)}[/red]")
        return 1
    narrator.console.print("[dim]everything is stopped; `make up` starts it for trying by hand[/dim]")
    return 0


def _check_possible(stack: Stack, *, bad_canary: bool) -> None:
    if bad_canary and real("KUBECONFIG"):
        raise StackError("a canary is spoilt by the stand-in's ingress: leave KUBECONFIG out")
    if stack.alive():
        raise StackError("a stack is already up: `make down` first; the demo begins with an empty one")


class Guard:
    """Stops the stack even if this process is killed: it holds the other end of the guard's standard input."""

    def __enter__(self) -> Guard:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local.stack", "guard"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=60)


def _tell(stack: Stack, narrator: Narrator, dataset: Path | None, *, bad_canary: bool, started: float) -> Story:
    narrator.chapter("The stack", "stand-ins for Yandex and Kubernetes; real Spark, MLflow, Prometheus and Airflow")
    stack.wipe()
    subject = stack.provide(dataset)
    stack.up(narrator.say)
    story = Story(stack, narrator, subject)
    story.begin()
    narrator.say(f"ready: Airflow at {stack.layout.url('airflow')}, MLflow at {stack.layout.url('mlflow')}")
    narrator.chapter("Version 1", "half the data, one epoch; the first of its name, it goes live after its smoke test")
    story.train(FIRST_VERSION)
    if bad_canary:
        narrator.chapter("Version 2, broken", "all the data, a better model, but a quarter of its requests will fail")
        story.train({}, watch=story.crash_canary(), may_fail=True)
        narrator.chapter(
            "Version 2 again, a little worse", "everyone meets errors now: 5 % on the stable side, 10 % on the canary"
        )
        story.roll_out_worse()
    else:
        narrator.chapter("Version 2", "all the data; it must beat version 1 and prove itself by canary")
        story.train({})
        narrator.chapter(
            "Rising load", "the scaler forecasts one lead time ahead and adds replicas before they are needed"
        )
        story.scale()
    figures = story.collect()
    story.check_nothing_left()
    show(narrator.console, figures, time.monotonic() - started)
    if bad_canary:
        check_caught(figures)
    return story


def check_caught(figures: Figures) -> None:
    """StackError unless a verdict rolled both bad rollouts back, each within two minutes of its first look."""
    for rollout in figures.rollouts[1:]:
        steps = rollout["steps"]
        if rollout["outcome"] != "rolled_back":
            raise StackError(f"the spoilt version was not rolled back but {rollout['outcome']}: {rollout['reason']}")
        if not steps or steps[-1]["verdict"] != "roll_back":
            raise StackError(f"the spoilt version was rolled back without a verdict: {rollout['reason']}")
        if (seconds := Catch.of(rollout).seconds) > PATIENCE_SECONDS:
            raise StackError(f"catching the spoilt version took {seconds:.0f} s, more than {PATIENCE_SECONDS:.0f} s")
    if figures.aliases.get("live") != figures.trainings[0].version:
        raise StackError(f"alias live should be version 1 still: {figures.aliases}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
