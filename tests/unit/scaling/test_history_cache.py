from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.scaling import history_cache
from ml_lifecycle.scaling.history_cache import KEPT_SECONDS, HistoryCache, locked, series_name

STEP, POINTS = 60, 50
NOW = 1_800_000_000.0


def opened(folder: Path, now: float = NOW, **wanted: int) -> HistoryCache:
    cache = HistoryCache(folder, STEP, now)
    cache.make_room(wanted or {"a1": POINTS})
    return cache


def load(slot: int) -> float:
    return float(slot % 1000)


def loads(cache: HistoryCache, points: int) -> np.ndarray:
    return np.array([load(slot) for slot in range(cache.slot - points + 1, cache.slot + 1)])


def test_a_pass_reads_what_is_new_and_a_few_samples_before(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert first.missing("a1", POINTS) == POINTS
    first.write("a1", loads(first, POINTS), POINTS)
    first.save()
    second = opened(tmp_path, NOW + 3 * STEP)
    assert second.missing("a1", POINTS) == 3 + 10
    second.write("a1", loads(second, 13), POINTS)
    np.testing.assert_array_equal(second.read("a1", POINTS), loads(second, POINTS))
    assert second.read("a1", 5).tolist() == loads(second, 5).tolist()


@settings(max_examples=30, deadline=None)
@given(gaps=st.lists(st.integers(0, 2 * POINTS), min_size=1, max_size=8))
def test_whatever_the_gaps_between_passes_the_history_is_what_prometheus_says(
    gaps: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, now = tmp_path_factory.mktemp("cache"), NOW
    for gap in gaps:
        now += gap * STEP
        cache = opened(folder, now)
        cache.write("a1", loads(cache, cache.missing("a1", POINTS)), POINTS)
        np.testing.assert_array_equal(cache.read("a1", POINTS), loads(cache, POINTS))
        cache.save()


def test_a_pass_that_was_not_saved_is_read_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a1", loads(first, POINTS), POINTS)
    first.save()
    lost = opened(tmp_path, NOW + STEP)
    lost.write("a1", loads(lost, 11), POINTS)
    third = opened(tmp_path, NOW + 2 * STEP)
    assert third.missing("a1", POINTS) == 2 + 10
    third.write("a1", loads(third, 12), POINTS)
    np.testing.assert_array_equal(third.read("a1", POINTS), loads(third, POINTS))


def test_new_series_find_room_and_the_others_stay(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a1", loads(first, POINTS), POINTS)
    first.save()
    second = opened(tmp_path, a1=POINTS, b1=20)
    assert (second.missing("a1", POINTS), second.missing("b1", 20)) == (10, 20)
    second.write("b1", loads(second, 20), 20)
    second.save()
    alone = opened(tmp_path, NOW + STEP, c1=POINTS)  # one namespace by hand takes nothing from the others
    alone.save()
    again = opened(tmp_path, NOW + STEP, a1=POINTS, b1=20)
    assert (again.missing("a1", POINTS), again.missing("b1", 20)) == (11, 11)
    np.testing.assert_array_equal(again.read("b1", 20)[:19], loads(second, 19 + 1)[1:])


def test_series_that_nobody_asks_for_lose_their_place(tmp_path: Path) -> None:
    first = opened(tmp_path, **{"a1": POINTS, "01d": POINTS})
    first.write("01d", loads(first, POINTS), POINTS)
    first.save()
    later = opened(tmp_path, NOW + KEPT_SECONDS + STEP, a1=POINTS, b1=POINTS)
    later.save()
    assert json.loads((tmp_path / f"loads-{STEP}s.json").read_text())["series"].keys() == {"a1", "b1"}


def test_a_longer_history_is_read_from_the_beginning(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a1", loads(first, POINTS), POINTS)
    first.save()
    assert opened(tmp_path, a1=POINTS + 1).missing("a1", POINTS + 1) == POINTS + 1


def test_a_clock_that_went_back_reads_everything(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a1", loads(first, POINTS), POINTS)
    first.save()
    assert opened(tmp_path, NOW - STEP).missing("a1", POINTS) == POINTS


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0, "steps": 50, "series": {"a1": 1}}', '{"version": 1}'])
def test_a_damaged_index_begins_anew(tmp_path: Path, text: str) -> None:
    first = opened(tmp_path)
    first.write("a1", loads(first, POINTS), POINTS)
    first.save()
    (tmp_path / f"loads-{STEP}s.json").write_text(text)
    assert opened(tmp_path).missing("a1", POINTS) == POINTS


def test_a_file_of_another_size_begins_anew(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a1", loads(first, POINTS), POINTS)
    first.save()
    (tmp_path / f"loads-{STEP}s.f32").write_bytes(b"1234")
    cache = opened(tmp_path)
    assert cache.missing("a1", POINTS) == POINTS
    cache.write("a1", loads(cache, POINTS), POINTS)
    assert not np.isnan(cache.read("a1", POINTS)).any()


def test_gaps_stay_gaps(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.write("a1", np.array([math.nan] * 9 + [5.0]), POINTS)
    assert np.isnan(cache.read("a1", POINTS)[:-1]).all()
    assert cache.read("a1", 1).tolist() == [5.0]


def test_only_one_pass_at_a_time_has_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    with locked(folder) as mine, locked(folder) as other:
        assert (mine, other) == (True, False)
    with locked(folder) as mine:
        assert mine
    assert folder.stat().st_mode & 0o777 == 0o700


def test_another_server_query_step_or_length_is_another_series() -> None:
    usual = ("http://prometheus", "up", 60, 100)
    others = [("http://other", *usual[1:]), ("http://prometheus", "down", 60, 100)]
    others += [("http://prometheus", "up", 61, 100), ("http://prometheus", "up", 60, 101)]
    assert len({series_name(*one) for one in [usual, *others]}) == 5


def test_what_could_not_be_read_ends_with_what_was_known(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert first.read_before("a1", POINTS) is None
    first.write("a1", loads(first, POINTS), POINTS)
    np.testing.assert_array_equal(first.read_before("a1", POINTS), loads(first, POINTS))
    first.save()
    later = opened(tmp_path, NOW + 2 * STEP)
    before = later.read_before("a1", POINTS)
    assert before is not None
    np.testing.assert_array_equal(before[:-2], loads(first, POINTS)[2:])
    assert np.isnan(before[-2:]).all()
    assert opened(tmp_path, NOW + POINTS * STEP).read_before("a1", POINTS) is None


def test_a_whole_history_is_read_again_about_once_a_day_each_at_its_own_time(tmp_path: Path) -> None:
    names = [series_name("server", str(number), STEP, POINTS) for number in range(40)]
    wanted = dict.fromkeys(names, POINTS)
    now, whole = NOW, dict.fromkeys(names, 0)
    for _ in range(4 * 48):  # two days
        now += 15 * STEP
        cache = HistoryCache(tmp_path, STEP, now)
        cache.make_room(wanted)
        due = [name for name in names if cache.missing(name, POINTS) == POINTS]
        assert len(due) <= 10 or now == NOW + 15 * STEP
        for name in names:
            whole[name] += name in due
            cache.write(name, loads(cache, cache.missing(name, POINTS)), POINTS)
        cache.save()
    assert 2 <= min(whole.values()) <= max(whole.values()) <= 5


def test_after_a_restart_of_the_machine_it_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(tmp_path)
    first.write("a1", loads(first, POINTS), POINTS)
    first.save()
    monkeypatch.setattr(history_cache, "_boot", lambda: "another")
    assert opened(tmp_path).missing("a1", POINTS) == POINTS


def test_a_full_disk_is_an_error_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        opened(tmp_path)
    assert not list(tmp_path.glob("*.new"))


def test_a_link_that_lies_where_the_lock_should_be_is_neither_followed_nor_emptied(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    folder = tmp_path / "loads"
    folder.mkdir(mode=0o700)
    (folder / "lock").symlink_to(theirs)
    with pytest.raises(OSError, match="symbolic links"), locked(folder):
        pass
    assert theirs.read_text() == "precious"


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "loads"
    folder.mkdir()
    folder.chmod(0o777)
    with locked(folder) as ours:
        assert not ours
