import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_jobs.augmentation import Augmentation

sides = st.integers(8, 24)
chance = st.floats(0, 1, exclude_max=True)


def picture(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@settings(deadline=None)
@given(sides, sides, chance, chance, chance, st.booleans(), st.floats(0, 0.5))
def test_a_move_is_what_padding_with_reflected_edges_gives(height, width, mirrored, down, right, flip, shift):
    pixels = picture(height, width)
    moved = Augmentation(flip, shift)(pixels, np.array([mirrored, down, right]))
    by_rows, by_columns = (round((2 * share - 1) * shift * side) for share, side in ((down, height), (right, width)))
    assert abs(by_rows) <= shift * height + 0.5
    padded = np.pad(pixels, ((height // 2, height // 2), (width // 2, width // 2), (0, 0)), mode="reflect")
    top, left = height // 2 - by_rows, width // 2 - by_columns
    expected = padded[top : top + height, left : left + width]
    np.testing.assert_array_equal(moved, expected[:, ::-1] if flip and mirrored < 0.5 else expected)
    assert moved.dtype == np.uint8


def test_nothing_asked_for_is_nothing_done():
    np.testing.assert_array_equal(Augmentation(False, 0.0)(picture(9, 9), np.array([0.1, 0.9, 0.1])), picture(9, 9))


def test_chances_follow_seed_epoch_shard_and_row_and_half_are_mirrored():
    change = Augmentation(True, 0.1)
    chances = change.chances(0, 1, 2, 2000)
    np.testing.assert_array_equal(change.chances(0, 1, 2, 50), chances[:50])
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not (change.chances(*other, 2000) == chances).any()
    assert 0.45 < (chances[:, 0] < 0.5).mean() < 0.55
