import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hftl.image import views
from hftl.image.views import (
    GREY,
    OPERATIONS,
    blend,
    contact_sheet,
    cut_and_paste,
    mix,
    rand_augment,
    random_erasing,
    random_flip,
    random_resized_crop,
)


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


# -- operations ------------------------------------------------------------------------------------------------------


@pytest.fixture
def dull() -> Image.Image:
    """A photo of little contrast, different everywhere."""
    pixels = np.random.default_rng(0).integers(60, 170, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels + np.arange(40, dtype=np.uint8)[:, None])


@pytest.mark.parametrize("strength", [-1.0, -0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", [*OPERATIONS])
def test_an_operation_changes_an_image_and_keeps_its_size_and_mode(name, strength, dull):
    before = dull.tobytes()
    changed = OPERATIONS[name](dull, strength)
    assert (changed.size, changed.mode) == (dull.size, "RGB")
    assert (changed.tobytes() == before) == (name == "identity")
    assert dull.tobytes() == before


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"autocontrast", "equalize"}))
def test_an_operation_of_no_strength_does_nothing(name, dull):
    assert OPERATIONS[name](dull, 0.0).tobytes() == dull.tobytes()


def test_a_shift_is_at_most_45_percent_of_the_side_with_grey_behind_it(photo):
    original = np.asarray(photo)
    for strength, seen, shown in ((1.0, slice(18, 40), slice(0, 22)), (-1.0, slice(0, 22), slice(18, 40))):
        expected = np.full_like(original, GREY[0])
        expected[:, shown] = original[:, seen]
        np.testing.assert_array_equal(OPERATIONS["translate_x"](photo, strength), expected)


@pytest.mark.parametrize("name", ["translate", "shear"])
def test_along_y_is_as_along_x(name, photo):
    turn = Image.Transpose.TRANSPOSE
    along_y = OPERATIONS[f"{name}_y"](photo, 0.6)
    along_x = OPERATIONS[f"{name}_x"](photo.transpose(turn), 0.6)
    assert along_y.tobytes() == along_x.transpose(turn).tobytes()


def test_the_strongest_operations(photo):
    original = np.asarray(photo)
    assert OPERATIONS["solarize"](photo, 1.0).tobytes() == ImageOps.invert(photo).tobytes()
    np.testing.assert_array_equal(OPERATIONS["posterize"](photo, 1.0), original & 0b11110000)
    turned = photo.rotate(30, Image.Resampling.BILINEAR, fillcolor=GREY)
    assert OPERATIONS["rotate"](photo, 1.0).tobytes() == turned.tobytes()
    assert np.asarray(OPERATIONS["brightness"](photo, -1.0)).mean() == pytest.approx(0.1 * original.mean(), rel=0.05)
    greyest = np.asarray(OPERATIONS["color"](photo, -1.0), dtype=float)
    assert greyest.std(axis=-1).mean() == pytest.approx(0.1 * original.std(axis=-1).mean(), rel=0.1)


def test_a_shear_leans_an_upright_line_about_its_middle():
    upright = np.zeros((31, 31, 3), dtype=np.uint8)
    upright[:, 15] = 255
    for strength in (-1.0, 1.0):
        leant = np.asarray(OPERATIONS["shear_x"](Image.fromarray(upright), strength))[..., 0].astype(int)
        top, middle, bottom = (int(np.argmax(np.where(row == GREY[0], 0, row))) for row in leant[[1, 15, 29]])
        assert middle == 15
        assert (top - bottom) * strength == pytest.approx(0.3 * 28, abs=1)


def drawn(monkeypatch, images: int, operations: int, magnitude: float | None) -> list[list[tuple[str, float]]]:
    """Name and strength of the operations that so many images are given."""
    found: list[list[tuple[str, float]]] = []

    def spy(name):
        def operation(image, strength):
            found[-1].append((name, strength))
            return image

        return operation

    monkeypatch.setattr(views, "OPERATIONS", {name: spy(name) for name in OPERATIONS})
    for seed in range(images):
        found.append([])
        rand_augment(Image.new("RGB", (2, 2)), np.random.default_rng(seed), operations, magnitude)
    return found


def test_rand_augment_draws_operations_of_one_magnitude(monkeypatch):
    found = drawn(monkeypatch, 200, 3, 7.0)
    assert {len(calls) for calls in found} == {3}
    assert {name for calls in found for name, _ in calls} == set(OPERATIONS)
    strengths = [strength for calls in found for _, strength in calls]
    assert set(strengths) == {-0.7, 0.7}
    assert 230 < strengths.count(0.7) < 370


def test_without_a_magnitude_each_operation_draws_its_own(monkeypatch):
    strengths = np.array([strength for calls in drawn(monkeypatch, 300, 1, None) for _, strength in calls])
    assert len(strengths) == len(set(strengths)) == 300
    counts, _ = np.histogram(strengths, bins=4, range=(-1, 1))
    assert counts.sum() == 300
    assert counts.min() > 45


def test_operations_are_a_function_of_their_generator(photo):
    views = [rand_augment(photo, np.random.default_rng(seed), 2, None).tobytes() for seed in (1, 1, 2, 3)]
    assert views[0] == views[1]
    assert len(set(views)) == 3
    assert rand_augment(photo, np.random.default_rng(1), 0, 9.0).tobytes() == photo.tobytes()


# -- on what the model takes -----------------------------------------------------------------------------------------


def test_erasing_puts_noise_into_one_rectangle():
    whole = np.full((3, 64, 48), 9.0, dtype=np.float32)
    areas, ratios, noise = [], [], []
    for seed in range(200):
        erased = random_erasing(whole, np.random.default_rng(seed), 1.0)
        assert (erased.dtype, erased.shape) == (np.float32, whole.shape)
        (gone,) = {channel.tobytes() for channel in erased != whole}
        rows, columns = np.nonzero(np.frombuffer(gone, dtype=bool).reshape(64, 48))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width  # a rectangle, and all of it
        areas.append(len(rows) / (64 * 48))
        if height < 64 and width < 48:
            ratios.append(height / width)
        noise.append(erased[:, rows, columns].ravel())
    assert (whole == 9.0).all()
    assert 0.018 < min(areas) < 0.05
    assert 0.28 < max(areas) < 0.34
    assert 0.25 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 4
    assert np.concatenate(noise).mean() == pytest.approx(0, abs=0.02)
    assert np.concatenate(noise).std() == pytest.approx(1, abs=0.02)
    assert len(np.unique(noise[0])) > 0.99 * len(noise[0])  # each value its own, channels too


@pytest.mark.parametrize(("probability", "fewest", "most"), [(0.0, 0, 0), (0.25, 60, 140), (1.0, 400, 400)])
def test_erasing_happens_as_often_as_told(probability, fewest, most):
    whole = np.full((3, 8, 8), 9.0, dtype=np.float32)
    views = [random_erasing(whole, np.random.default_rng(seed), probability) for seed in range(400)]
    assert fewest <= sum((view != 9.0).any() for view in views) <= most


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
@example(1, 40, 0)
def test_erasing_fits_an_image_of_any_shape(height, width, seed):
    erased = random_erasing(np.full((3, height, width), 9.0, dtype=np.float32), np.random.default_rng(seed), 1.0)
    assert erased.shape == (3, height, width)
    assert (erased != 9.0).any()


def test_mixup_blends():
    one, other = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(blend(one, other, 0.3), 0.3 * one + 0.7 * other, rtol=1e-5)
    assert blend(one, other, 0.3).dtype == np.float32


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 1.0])
def test_cutmix_pastes_one_rectangle_and_counts_what_is_left(share):
    one, other = np.zeros((3, 32, 48), dtype=np.float32), np.ones((3, 32, 48), dtype=np.float32)
    kept = []
    for seed in range(400):
        pasted, left = cut_and_paste(one, other, np.random.default_rng(seed), share)
        assert left == pytest.approx(1 - pasted.mean())
        assert left >= share - 0.06  # what would lie outside is not pasted; edges are rounded
        rows, columns = np.nonzero(pasted[0])
        if len(rows):
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        kept.append(left)
    assert min(kept) == pytest.approx(share, abs=0.04)
    assert not one.any()
    if 0 < share < 1:
        assert len(set(kept)) > 1


def test_which_mixture_it_is():
    one, other = np.zeros((3, 16, 16), dtype=np.float32), np.ones((3, 16, 16), dtype=np.float32)

    def blended(mixup: float, cutmix: float) -> int:
        """How many of 200 have values between the two images."""
        views = [mix(one, other, np.random.default_rng(seed), mixup, cutmix)[0] for seed in range(200)]
        return sum(len(np.unique(view)) == 1 and 0 < view[0, 0, 0] < 1 for view in views)

    assert blended(1.0, 0.0) == 200
    assert blended(0.0, 1.0) == 0
    assert 70 < blended(1.0, 1.0) < 130


def test_a_small_alpha_mixes_little():
    one, other = np.zeros((3, 16, 16), dtype=np.float32), np.ones((3, 16, 16), dtype=np.float32)
    between = {
        alpha: np.mean([abs(mix(one, other, np.random.default_rng(s), alpha, 0)[1] - 0.5) for s in range(300)])
        for alpha in (0.1, 1.0, 8.0)
    }
    assert between[0.1] > 0.4
    assert between[1.0] == pytest.approx(0.25, abs=0.03)  # Beta(1, 1) is uniform
    assert between[8.0] < 0.15

    def untouched(alpha: float) -> float:
        shares = [mix(one, other, np.random.default_rng(seed), 0, alpha)[1] for seed in range(300)]
        return float(np.mean([share == 1 for share in shares]))

    assert untouched(0.1) > 0.2 > 0.1 > untouched(1.0) > untouched(8.0) == 0


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 10),
    st.floats(0, 10, exclude_min=True),
    st.integers(0, 2**32),
)
@example(8, 8, 5e-324, 5e-324, 0)
@example(1, 1, 0.0, 1.0, 0)
def test_a_mixture_has_the_shares_it_says(height, width, mixup, cutmix, seed):
    one, other = np.zeros((3, height, width), dtype=np.float32), np.ones((3, height, width), dtype=np.float32)
    mixture, share = mix(one, other, np.random.default_rng(seed), mixup, cutmix)
    assert 0 <= share <= 1
    assert mixture.mean() == pytest.approx(1 - share, abs=1e-5)
    assert mixture.dtype == np.float32


# -- for people ------------------------------------------------------------------------------------------------------


def test_a_contact_sheet_shows_the_colours_before_normalisation():
    colours = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 4))
    mean, std = np.array([0.5, 0.4, 0.3], dtype=np.float32), np.array([0.2, 0.3, 0.4], dtype=np.float32)
    views = ((colours / 255 - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
    sheet = contact_sheet(views, -mean / std, (1 - mean) / std, columns=3)
    assert (sheet.size, sheet.mode) == ((12, 4), "RGB")
    found = np.asarray(sheet)
    for number, colour in enumerate(colours):
        top, left = 2 * (number // 3), 4 * (number % 3)
        np.testing.assert_array_equal(found[top : top + 2, left : left + 4], colour.transpose(1, 2, 0))
    assert (found[2:, 8:] == 255).all()  # no sixth view
