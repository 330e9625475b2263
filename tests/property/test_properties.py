"""What holds for all inputs."""

import itertools
import math
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from hftl import tasks
from hftl.data.batches import BUCKET_STEPS, epoch_order, evaluation_order, micro_batches
from hftl.image.views import random_resized_crop
from hftl.recipe.defaults import Known, resolved
from hftl.recipe.phase import Phase
from hftl.recipe.recipe import Recipe, from_dict, read_yaml, to_dict, to_yaml
from hftl.recipe.schedule import factor
from hftl.tasks import ImageClassification, TextClassification
from hftl.text.examples import HEAD_SHARE, kept_places

seeds = st.lists(st.integers(0, 2**32), min_size=1, max_size=3)


@st.composite
def data(draw: st.DrawFn) -> tuple[int, np.ndarray | None, int]:
    """How many rows, their lengths where they have some, and the size of a step."""
    rows, batch_size = draw(st.integers(1, 400)), draw(st.integers(1, 40))
    if draw(st.booleans()):
        return rows, None, batch_size
    longest, seed = draw(st.integers(1, 500)), draw(st.integers(0, 99))
    return rows, np.random.default_rng(seed).integers(1, longest + 1, rows), batch_size


# -- the order of the data -------------------------------------------------------------------------------------------


@given(data(), seeds)
def test_an_epoch_is_a_partition_of_the_rows(rows_of, seed):
    rows, lengths, batch_size = rows_of
    steps = epoch_order(rows, lengths, batch_size, seed)
    assert sorted(np.concatenate(steps).tolist()) == list(range(rows))
    assert len(steps) == math.ceil(rows / batch_size)
    assert sorted(len(step) for step in steps)[1:] == [batch_size] * (len(steps) - 1)
    assert all(len(step) for step in steps)


@given(data(), seeds, seeds)
def test_an_epoch_is_a_function_of_its_seed(rows_of, seed, other):
    rows, lengths, batch_size = rows_of
    steps, again = (np.concatenate(epoch_order(rows, lengths, batch_size, seed)).tolist() for _ in range(2))
    assert steps == again
    assume(rows >= 30 and lengths is None and seed != other)
    # SeedSequence fills up with zeros: [1] and [1, 0] are one seed
    assume(list(np.trim_zeros(seed, "b")) != list(np.trim_zeros(other, "b")))
    assert np.concatenate(epoch_order(rows, lengths, batch_size, other)).tolist() != steps


@given(data(), seeds)
def test_padding_is_bounded(rows_of, seed):
    rows, lengths, batch_size = rows_of
    assume(lengths is not None)
    steps = epoch_order(rows, lengths, batch_size, seed)
    padding = sum(int(lengths[step].max()) * len(step) - int(lengths[step].sum()) for step in steps)
    # in a sorted stretch, what is wasted telescopes to one step of the longest less the shortest
    stretches = math.ceil(rows / (batch_size * BUCKET_STEPS))
    assert padding <= stretches * batch_size * (lengths.max() - lengths.min())


@given(data())
def test_an_evaluation_takes_each_row_once(rows_of):
    rows, lengths, batch_size = rows_of
    batches = evaluation_order(rows, lengths, batch_size)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(rows))
    assert max(len(batch) for batch in batches) <= batch_size
    if lengths is not None:
        assert (np.diff(lengths[order]) <= 0).all()


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 5))
def test_pieces_of_all_processes_make_up_the_step(rows, accumulation, world_size):
    step = np.random.default_rng(rows).permutation(rows)
    pieces = [micro_batches(step, accumulation, rank, world_size) for rank in range(world_size)]
    assert np.concatenate([piece for own in pieces for piece in own]).tolist() == step.tolist()
    assert all(len(piece) for own in pieces for piece in own)
    assert all(len(own) <= accumulation for own in pieces)
    sizes = [len(piece) for own in pieces for piece in own]
    assert max(sizes) - min(sizes) <= 1


# -- the learning rate -----------------------------------------------------------------------------------------------


@given(st.sampled_from(["linear", "cosine", "constant"]), st.floats(0, 1), st.integers(1, 300))
@example("linear", 1.0, 1)
@example("cosine", 5e-324, 300)
def test_the_curve_rises_over_the_warm_up_and_never_after(schedule, warmup, steps):
    phase = Phase(schedule=schedule, warmup=warmup)
    curve = [factor(phase, step, steps) for step in range(steps)]
    assert all(0 < value <= 1 for value in curve)
    peak = math.ceil(warmup * steps)
    rising, falling = curve[:peak], curve[peak:]
    assert all(before < after for before, after in itertools.pairwise(rising))
    assert all(before >= after for before, after in itertools.pairwise(falling))
    assert max(curve) == 1.0
    if rising:
        assert rising[-1] == 1.0
    if falling:
        assert falling[0] == 1.0


# -- recipes ---------------------------------------------------------------------------------------------------------

depths = st.one_of(
    st.sampled_from(["auto", "head", "neck", "all"]), st.integers(1, 100), st.floats(0, 1, exclude_min=True)
)
rates = st.floats(0, 10)
scales = st.floats(0, 10, exclude_min=True)
shared_by_phases = {
    "epochs": st.none() | st.integers(1, 1000),
    "lr": st.none() | rates,
    "layer_decay": st.floats(0, 1),
    "warmup": st.floats(0, 1),
    "schedule": st.sampled_from(["linear", "cosine", "constant"]),
    "weight_decay": rates,
    "batch_norm": st.sampled_from([None, "keep", "update"]),
    "head_scale": st.none() | scales,
    "patience": st.none() | st.integers(1, 99),
}
heads = st.builds(
    Phase,
    unfreeze=st.sampled_from(["auto", "head", "neck"]),
    solver=st.sampled_from([None, "lbfgs", "steps"]),
    penalty=st.none() | rates,
    temperature=st.none() | scales,
    **shared_by_phases,
)
phases = st.builds(Phase, unfreeze=depths, **shared_by_phases) | heads
# PyYAML does not read back the NEL that it writes
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x85")
texts = st.text(characters, max_size=20) | st.sampled_from(
    ["null", "no", "1e3", "0x1F", "2020-01-01", "~", "- a", "a: b", "<x>"]
)
shared_options = {
    "data": texts,
    "subset": st.none() | texts,
    "label_column": st.none() | texts,
    "max_rows": st.none() | st.integers(2, 10**6),
    "validation_fraction": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "bad_rows": st.sampled_from(["skip", "error"]),
    "label_map": st.dictionaries(texts, texts, max_size=3),
    "label_smoothing": st.floats(0, 1, exclude_max=True),
    "label_separator": st.none() | texts.filter(bool),
    "balance": st.sampled_from(["none", "weights", "sampler"]),
    "loss": st.sampled_from(["cross-entropy", "focal"]),
    "focal_gamma": st.floats(0, 10),
    "metrics": st.lists(texts, max_size=3).map(tuple),
}
some_task = st.builds(
    ImageClassification, **shared_options, augment=st.sampled_from(["crop-flip", "crop", "none"])
) | st.builds(TextClassification, **shared_options, max_length=st.integers(8, 4096), text_column=st.none() | texts)
recipes = st.builds(
    Recipe,
    task=some_task,
    model=texts,
    phases=st.lists(phases, max_size=4).map(tuple),
    output_dir=st.none() | texts,
    seed=st.integers(0, 2**63),
    batch_size=st.none() | st.integers(16, 4096),
    refit=st.sampled_from([None, False]),
    accumulation=st.integers(1, 16),
    precision=st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
    clip_norm=st.none() | st.floats(0, 10, exclude_min=True),
    head_dropout=st.floats(0, 1, exclude_max=True),
    keep_head=st.booleans(),
    best_by=st.none() | texts,
    layer_groups=st.dictionaries(texts, texts, max_size=3),
)


@given(recipes)
def test_a_recipe_survives_yaml(recipe):
    text = to_yaml(recipe)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text, encoding="utf-8", newline="")
        back = read_yaml(path, tasks.find)
    assert back == recipe
    assert [type(phase.unfreeze) for phase in back.phases] == [type(phase.unfreeze) for phase in recipe.phases]
    assert to_yaml(back) == text
    assert from_dict(to_dict(recipe), tasks.find, "") == recipe


knowns = st.builds(
    Known,
    rows=st.integers(1, 10**7),
    start=st.sampled_from(["head", "neck"]),
    head_lr=rates,
    lr=rates,
    narrower=st.floats(0.1, 3),
    linear=st.booleans(),
    far=st.booleans(),
)


@given(st.lists(phases, max_size=5).map(tuple), knowns, st.integers(1, 64))
def test_resolving_leaves_nothing_open(declared, known, batch):
    found = resolved(declared, known, batch)
    assert len(found) == len(declared)
    for before, after in zip(declared, found, strict=True):
        assert after.unfreeze == (known.start if before.unfreeze == "auto" else before.unfreeze)
        for option in ("epochs", "lr", "batch_norm", "head_scale"):
            assert getattr(after, option) is not None
        for option in ("epochs", "lr", "batch_norm", "head_scale", "solver", "penalty", "temperature"):
            assert getattr(after, option) == getattr(before, option) or getattr(before, option) is None
        assert (after.solver is None) != after.head_only
    other = Known(rows=7, start="head", head_lr=1.0, lr=1.0, linear=not known.linear, far=not known.far)
    assert resolved(found, other, batch=1) == found


# -- texts and images ------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 3),
    st.integers(0, 300),
    st.integers(0, 3),
    st.integers(8, 64),
    st.sampled_from(["head", "tail", "head+tail"]),
)
def test_cutting_a_text(before, words, after, limit, truncation):
    texts = [None] * before + [0] * words + [None] * after
    found = kept_places(texts, limit, truncation)
    total = len(texts)
    if total <= limit:
        return  # nothing is asked of it then
    assert len(found) == limit
    assert found[:before] == [*range(before)]
    assert found[limit - after :] == [*range(total - after, total)]
    room = limit - before - after
    head = {"head": room, "tail": 0, "head+tail": round(HEAD_SHARE * room)}[truncation]
    places = [*range(before, before + words)]
    assert found[before : limit - after] == places[:head] + places[words - (room - head) :]


@given(st.integers(0, 90), st.integers(0, 90), st.integers(8, 64), st.sampled_from(["head", "tail", "head+tail"]))
def test_cutting_a_pair(first, second, limit, truncation):
    texts = [None, *[0] * first, None, *[1] * second, None]
    if len(texts) <= limit:
        return
    kept = [texts[place] for place in kept_places(texts, limit, truncation)]
    assert len(kept) == limit
    assert kept.count(None) == 3
    one, two = kept.count(0), kept.count(1)
    assert one == first or one >= two - 1  # what is cut is the longer, until they are as long
    assert two == second or two >= one - 1


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32),
    st.floats(0, 1, exclude_min=True),
)
@example(1, 1, 224, 224, 0, 1e-9)
@example(10000, 1, 8, 8, 0, 0.35)
@example(1, 10000, 8, 8, 0, 1.0)
def test_a_view_of_any_image_has_the_size_asked_for(width, height, view_height, view_width, seed, min_area):
    image = Image.new("RGB", (width, height), (200, 100, 50))
    view = random_resized_crop(image, (view_height, view_width), np.random.default_rng(seed), min_area)
    assert view.size == (view_width, view_height)
    assert view.getextrema() == ((200, 200), (100, 100), (50, 50))  # nothing from outside the image
