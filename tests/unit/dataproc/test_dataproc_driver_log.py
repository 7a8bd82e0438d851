from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.dataproc.driver_log import LAST_LINES, DriverLog


@given(st.text(alphabet="ab\n", max_size=60), st.integers(1, 7), st.lists(st.integers(0, 12), max_size=20))
def test_every_line_is_given_once_however_the_output_grows_and_is_cut_into_pages(output, page_size, growth):
    log, lines, written = DriverLog(), [], 0
    for more in (*growth, len(output)):
        written = min(len(output), written + more)
        while True:
            start = int(log.page_token or 0)
            content = output[start : min(written, start + page_size)]
            following = str(start + page_size) if written > start + page_size else ""
            lines += log.feed(content, following)
            if not following:
                break
    lines += log.close()
    assert lines == output.split("\n")[: None if output and not output.endswith("\n") else -1]


def test_the_last_lines_are_kept():
    log = DriverLog()
    log.feed("".join(f"{number}\n" for number in range(100)) + "end", "")
    log.close()
    assert len(log.last_lines) == LAST_LINES
    assert log.last_lines[-1] == "end"
