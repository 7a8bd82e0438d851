from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.scaling.history_cache import KEPT_SECONDS, HistoryCache, locked, series_name

STEP, POINTS = 60, 50
NOW = 1_800_000_000.0


def opened(folder: Path, now: float = NOW, **wanted: int) -> HistoryCache:
    cache = HistoryCache(folder, STEP, now)
    cache.make_room(wanted or {"a": POINTS})
    return cache


def load(slot: int) -> float:
    return float(slot % 1000)


def loads(cache: HistoryCache, points: int) -> np.ndarray:
    return np.array([load(slot) for slot in range(cache.slot - points + 1, cache.slot + 1)])


def test_a_pass_reads_what_is_new_and_a_few_samples_before(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert first.missing("a", POINTS) == POINTS
    first.write("a", loads(first, POINTS))
    first.save()
    second = opened(tmp_path, NOW + 3 * STEP)
    assert second.missing("a", POINTS) == 3 + 10
    second.write("a", loads(second, 13))
    np.testing.assert_array_equal(second.read("a", POINTS), loads(second, POINTS))
    assert second.read("a", 5).tolist() == loads(second, 5).tolist()


@settings(max_examples=30, deadline=None)
@given(gaps=st.lists(st.integers(0, 2 * POINTS), min_size=1, max_size=8))
def test_whatever_the_gaps_between_passes_the_history_is_what_prometheus_says(
    gaps: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, now = tmp_path_factory.mktemp("cache"), NOW
    for gap in gaps:
        now += gap * STEP
        cache = opened(folder, now)
        cache.write("a", loads(cache, cache.missing("a", POINTS)))
        np.testing.assert_array_equal(cache.read("a", POINTS), loads(cache, POINTS))
        cache.save()


def test_a_pass_that_was_not_saved_is_read_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a", loads(first, POINTS))
    first.save()
    lost = opened(tmp_path, NOW + STEP)
    lost.write("a", loads(lost, 11))
    third = opened(tmp_path, NOW + 2 * STEP)
    assert third.missing("a", POINTS) == 2 + 10
    third.write("a", loads(third, 12))
    np.testing.assert_array_equal(third.read("a", POINTS), loads(third, POINTS))


def test_new_series_find_room_and_the_others_stay(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a", loads(first, POINTS))
    first.save()
    second = opened(tmp_path, a=POINTS, b=20)
    assert (second.missing("a", POINTS), second.missing("b", 20)) == (10, 20)
    second.write("b", loads(second, 20))
    second.save()
    alone = opened(tmp_path, NOW + STEP, c=POINTS)  # one namespace by hand takes nothing from the others
    alone.save()
    again = opened(tmp_path, NOW + STEP, a=POINTS, b=20)
    assert (again.missing("a", POINTS), again.missing("b", 20)) == (11, 11)
    np.testing.assert_array_equal(again.read("b", 20)[:19], loads(second, 19 + 1)[1:])


def test_series_that_nobody_asks_for_lose_their_place(tmp_path: Path) -> None:
    first = opened(tmp_path, a=POINTS, old=POINTS)
    first.write("old", loads(first, POINTS))
    first.save()
    later = opened(tmp_path, NOW + KEPT_SECONDS + STEP, a=POINTS, b=POINTS)
    later.save()
    assert json.loads((tmp_path / f"loads-{STEP}s.json").read_text())["newest"].keys() == {"a", "b"}


def test_a_longer_history_is_read_from_the_beginning(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a", loads(first, POINTS))
    first.save()
    assert opened(tmp_path, a=POINTS + 1).missing("a", POINTS + 1) == POINTS + 1


def test_a_clock_that_went_back_reads_everything(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a", loads(first, POINTS))
    first.save()
    assert opened(tmp_path, NOW - STEP).missing("a", POINTS) == POINTS


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0, "steps": 50, "newest": {"a": 1}}', '{"version": 1}'])
def test_a_damaged_index_begins_anew(tmp_path: Path, text: str) -> None:
    first = opened(tmp_path)
    first.write("a", loads(first, POINTS))
    first.save()
    (tmp_path / f"loads-{STEP}s.json").write_text(text)
    assert opened(tmp_path).missing("a", POINTS) == POINTS


def test_a_file_of_another_size_begins_anew(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write("a", loads(first, POINTS))
    first.save()
    (tmp_path / f"loads-{STEP}s.f32").write_bytes(b"1234")
    cache = opened(tmp_path)
    assert cache.missing("a", POINTS) == POINTS
    cache.write("a", loads(cache, POINTS))
    assert not np.isnan(cache.read("a", POINTS)).any()


def test_gaps_stay_gaps(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.write("a", np.array([math.nan] * 9 + [5.0]))
    assert np.isnan(cache.read("a", POINTS)[:-1]).all()
    assert cache.read("a", 1).tolist() == [5.0]


def test_only_one_pass_at_a_time_has_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    with locked(folder) as mine, locked(folder) as other:
        assert (mine, other) == (True, False)
    with locked(folder) as mine:
        assert mine
    assert folder.stat().st_mode & 0o777 == 0o700


def test_another_query_step_or_length_is_another_series() -> None:
    names = {
        series_name("up", 60, 100),
        series_name("up", 60, 101),
        series_name("up", 61, 100),
        series_name("down", 60, 100),
    }
    assert len(names) == 4
