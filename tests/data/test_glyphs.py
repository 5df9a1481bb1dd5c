import numpy as np

from vtl.data import drawing
from vtl.data.glyphs import CLASSES, SIZES, Glyphs, _master


def test_a_picture_is_a_function_of_its_row():
    pictures = Glyphs(1000, 32, seed=3)
    batch = pictures[np.array([7, 900, 7])]
    assert batch.shape == (3, 32, 32, 3)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[0], batch[2])
    np.testing.assert_array_equal(batch[1], Glyphs(1000, 32, seed=3)[np.array([900])][0])
    assert not np.array_equal(batch[0], Glyphs(1000, 32, seed=4)[np.array([7])][0])
    assert pictures.shape == (1000, 32, 32, 3)
    assert len(pictures) == len(pictures.labels) == 1000


def test_every_class_is_drawn_and_none_is_a_digit():
    assert not set(CLASSES) & set("0123456789")
    assert len(set(CLASSES)) == len(CLASSES) == 48
    assert set(Glyphs(1000, 32, seed=0).labels) == set(range(48))
    assert np.array_equal(Glyphs(10, 32, seed=0).labels, Glyphs(1000, 32, seed=0).labels[:10])
    for stroke in (1, 2):
        masters = [_master(name, stroke) for name in CLASSES]
        assert len({master.tobytes() for master in masters}) == 48
        for master in masters:
            assert master.shape == (64, 64)
            assert 0.02 < master.mean() < 0.6
            # Whole: nothing is cut off by the border.
            assert not np.concatenate([master[[0, -1]], master[:, [0, -1]].T]).any()


def test_the_glyph_stands_out(monkeypatch):
    """Beside the same picture without paint: a patch of it, of a size that was promised."""
    rows = np.arange(40)
    painted = Glyphs(40, 64, seed=1)[rows].astype(np.float64)
    monkeypatch.setattr(drawing, "paint", lambda *args: None)
    differences = np.abs(painted - Glyphs(40, 64, seed=1)[rows]).max(axis=3)
    assert (differences.max(axis=(1, 2)) > 10).all()
    for difference in differences:
        for axis in (0, 1):
            touched = np.flatnonzero((difference > 3).any(axis=axis))
            assert 5 < np.ptp(touched) + 1 <= 64 * SIZES[1]
