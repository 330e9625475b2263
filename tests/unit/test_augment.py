import numpy as np
import pytest
from PIL import Image

from hftl.data.augment import random_flip, random_resized_crop


class Spy:
    """Has the size of an image, and keeps the box that it is asked for."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)

    def resize(self, size, resample, box):
        self.asked, self.box = size, box
        return self


def box_of(width: int, height: int, seed: int, min_area: float) -> tuple[float, float, float, float]:
    spy = Spy(width, height)
    random_resized_crop(spy, (5, 7), np.random.default_rng(seed), min_area)  # type: ignore[arg-type]
    assert spy.asked == (7, 5)  # PIL has the width first
    return spy.box


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))


def test_a_view_has_the_size_and_mode_asked_for(photo):
    view = random_resized_crop(photo, (12, 20), np.random.default_rng(0), 0.3)
    assert view.size == (20, 12)
    assert view.mode == "RGB"
    assert view.resize((1, 1)).getpixel((0, 0)) == pytest.approx(photo.resize((1, 1)).getpixel((0, 0)), abs=30)


def test_a_view_is_a_function_of_its_generator(photo):
    views = [random_resized_crop(photo, (8, 8), np.random.default_rng(seed), 0.3).tobytes() for seed in (1, 1, 2, 3)]
    assert views[0] == views[1]
    assert len(set(views)) == 3


@pytest.mark.parametrize("min_area", [0.08, 0.35, 0.6])
def test_the_part_shown_is_large_enough_and_inside(min_area):
    areas, ratios, places = [], [], set()
    for seed in range(200):
        left, top, right, bottom = box_of(40, 30, seed, min_area)
        assert 0 <= left < right <= 40 + 1e-9
        assert 0 <= top < bottom <= 30 + 1e-9
        areas.append((right - left) * (bottom - top) / 1200)
        ratios.append((right - left) / (bottom - top))
        places.add((left, top))
    assert min(areas) >= min_area - 1e-9
    assert max(areas) - min(areas) > (1 - min_area) / 2
    assert 3 / 4 - 1e-9 <= min(ratios) < 1 < max(ratios) <= 4 / 3 + 1e-9
    assert len(places) > 100


@pytest.mark.parametrize(("width", "height", "box"), [(1000, 10, (495, 0, 505, 10)), (3, 300, (0, 148.5, 3, 151.5))])
def test_a_very_long_image_shows_its_centre(width, height, box):
    assert box_of(width, height, 0, 0.9) == box


def test_a_flip_is_even_and_a_mirror(photo):
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    rng = np.random.default_rng(0)
    found = [random_flip(photo, rng).tobytes() for _ in range(200)]
    assert set(found) == {photo.tobytes(), mirrored}
    assert 70 < found.count(mirrored) < 130
