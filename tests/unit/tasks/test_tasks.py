import dataclasses
import shutil
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hftl import tasks
from hftl.data.batches import Batch
from hftl.image.processors import view_size
from hftl.probabilities import log_softmax
from hftl.tasks import ImageClassification, TextClassification

LOGITS = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 5.0]], dtype=np.float32)


@pytest.fixture
def image_rows(photos):
    """Six photos with labels, as the data layer gives them."""
    paths = sorted(str(path) for path in (photos / "train").rglob("*.png"))[::4]
    values = [{"path": path, "bytes": None} for path in paths]
    rows = datasets.Dataset.from_dict({"image": values, "label": [0, 0, 1, 1, 2, 2]})
    return rows.cast_column("image", datasets.Image(decode=False))


def rows_of(texts: list[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": texts, "label": [index % 2 for index in range(len(texts))]})


# -- finding tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_is_found_by_its_file(name):
    found = tasks.find(name)
    assert found.name == name
    assert getattr(tasks, found.__name__) is found
    assert dataclasses.is_dataclass(found)
    assert found.head_lr > found.lr > 0


def test_what_is_no_task(one_line_error):
    assert tasks.names() == [
        "audio-classification",
        "image-classification",
        "question-answering",
        "text-classification",
    ]
    for name in ("base", "-classification", "image_classification", ""):
        with one_line_error(
            f"{name}: no such task",
            "audio-classification, image-classification, question-answering, text-classification",
        ):
            tasks.find(name)
    with pytest.raises(AttributeError, match="VideoClassification"):
        _ = tasks.VideoClassification


# -- classification --------------------------------------------------------------------------------------------------


ROWS = datasets.Dataset.from_dict({"label": [0, 1, 1, 2]})


def outputs(logits: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(logits=torch.from_numpy(logits).bfloat16())


def test_the_loss_is_of_each_row_and_in_float32():
    targets = torch.tensor([0, 1, 1, 2])
    batch = Batch({}, targets, torch.arange(4))
    loss = TextClassification(data="a").objective(ROWS)(outputs(LOGITS), batch)
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss, -log_softmax(LOGITS)[np.arange(4), targets], rtol=1e-5)
    smooth = TextClassification(data="a", label_smoothing=0.3).objective(ROWS)(outputs(LOGITS), batch)
    expected = 0.7 * loss.numpy() - 0.3 * log_softmax(LOGITS).mean(axis=1)
    np.testing.assert_allclose(smooth, expected, rtol=1e-5)


def test_a_loss_needs_labels(one_line_error):
    with one_line_error("loss", "no labels"):
        TextClassification(data="a").objective(ROWS)(outputs(LOGITS), Batch({}, None, torch.arange(4)))


def test_scores_of_a_split():
    plain, smooth = (
        TextClassification(data="a", label_smoothing=smoothing).score({"logits": LOGITS}, ROWS, {})
        for smoothing in (0, 0.5)
    )
    assert list(plain) == ["accuracy", "macro_f1", "loss"]
    assert plain["accuracy"] == 0.75
    assert plain["loss"] == pytest.approx(-log_softmax(LOGITS)[np.arange(4), [0, 1, 1, 2]].mean())
    assert smooth == plain  # comparable between runs


def test_the_majority_is_learnt_from_the_training_rows():
    train = datasets.Dataset.from_dict({"label": [2, 2, 0, 1]})
    scores = TextClassification(data="a").majority(train, datasets.Dataset.from_dict({"label": [0, 1, 2, 0]}))
    assert scores["accuracy"] == 0.25
    assert scores["macro_f1"] == pytest.approx(0.4 / 3)


def test_answers_are_probabilities_of_all_labels_best_first():
    found = TextClassification(data="a").answers({"logits": LOGITS}, ROWS, ("a", "b", "c"), {})
    assert [answer["label"] for answer in found] == ["a", "b", "a", "c"]
    for answer in found:
        assert sum(answer["scores"].values()) == pytest.approx(1)
        assert list(answer["scores"].values()) == sorted(answer["scores"].values(), reverse=True)
        assert answer["score"] == answer["scores"][answer["label"]]
    assert found[0]["scores"]["a"] == pytest.approx(np.exp(2) / (np.exp(2) + 1 + np.exp(1)))


def test_log_softmax_of_huge_logits():
    found = log_softmax(np.array([[1e30, 0.0], [-1e30, -1e30]], dtype=np.float32))
    np.testing.assert_allclose(found, [[0.0, -1e30], [-np.log(2)] * 2], rtol=1e-6)


# -- images ----------------------------------------------------------------------------------------------------------


def test_a_view_depends_on_seed_and_row_alone(image_rows, tiny_model):
    task = ImageClassification(data="a")
    examples = task.examples(image_rows, task.load_processor(str(tiny_model("vit")), False), augment=True)
    whole = examples.at((0, 1)).__getitems__([0, 1, 2, 3])
    assert whole.inputs["pixel_values"].shape == (4, 3, 32, 32)
    assert whole.targets.tolist() == [0, 0, 1, 1]
    alone = examples.at((0, 1)).__getitems__([2])
    assert torch.equal(alone.inputs["pixel_values"][0], whole.inputs["pixel_values"][2])
    other = examples.at((0, 2)).__getitems__([2])
    assert not torch.equal(other.inputs["pixel_values"], alone.inputs["pixel_values"])
    twice = dataclasses.replace(examples, dataset=image_rows.select([0, 0])).at((0, 1)).__getitems__([0, 1])
    assert not torch.equal(*twice.inputs["pixel_values"])


@pytest.mark.parametrize(("setting", "augment"), [("none", True), ("crop-flip", False), ("crop", False)])
def test_plain_images_are_what_the_processor_makes(setting, augment, image_rows, tiny_model):
    task = ImageClassification(data="a", augment=setting)
    processor = task.load_processor(str(tiny_model("vit")), False)
    batch = task.examples(image_rows, processor, augment).at((0, 1)).__getitems__([3])
    image = Image.open(image_rows[3]["image"]["path"])
    expected = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch.inputs["pixel_values"], expected)


def test_crops_are_mirrored_only_where_asked(image_rows, tiny_model):
    found = {}
    for setting in ("crop", "crop-flip"):
        task = ImageClassification(data="a", augment=setting)
        examples = task.examples(image_rows, task.load_processor(str(tiny_model("vit")), False), augment=True)
        found[setting] = [examples.at((seed,)).__getitems__([0]).inputs["pixel_values"] for seed in range(20)]
    pairs = list(zip(found["crop"], found["crop-flip"], strict=True))
    same = [torch.equal(crop, either) for crop, either in pairs]
    mirrored = [torch.equal(crop.flip(-1), either) for crop, either in pairs]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert 3 < sum(same) < 17


VARIED = {
    "rand augment": {"rand_augment": 2, "magnitude": 9.0},
    "trivial augment": {"rand_augment": 1},
    "erasing": {"erasing": 1.0},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "all, uncropped": {"augment": "none", "rand_augment": 2, "erasing": 0.5, "mixup": 0.2, "cutmix": 1.0},
}


@pytest.fixture
def labelled_rows(image_rows):
    """The photos with labels as the data layer gives them: with the number of classes, one of which has no row."""
    return image_rows.cast_column("label", datasets.ClassLabel(num_classes=4))


def varied(rows: datasets.Dataset, folder, training: bool = True, **options):
    task = ImageClassification(data="a", **options)
    return task.examples(rows, task.load_processor(str(folder), False), augment=training)


@pytest.mark.parametrize("options", VARIED.values(), ids=VARIED)
def test_random_views_do_not_depend_on_how_a_step_is_cut(options, labelled_rows, tiny_model):
    examples = varied(labelled_rows, tiny_model("vit"), **options).at((3, 1, 4))
    whole = examples.__getitems__([1, 2, 3, 5])
    again = examples.at((3, 1, 4)).__getitems__([1, 2, 3, 5])
    parts = [examples.__getitems__(piece) for piece in ([1], [2, 3], [5])]
    for name in ("inputs", "targets"):
        one, other, *pieces = (
            batch.inputs["pixel_values"] if name == "inputs" else batch.targets for batch in (whole, again, *parts)
        )
        assert torch.equal(one, other)
        assert torch.equal(one, torch.cat(pieces))


@pytest.mark.parametrize("options", VARIED.values(), ids=VARIED)
def test_random_views_are_for_training_alone(options, labelled_rows, tiny_model):
    plain = varied(labelled_rows, tiny_model("vit"), augment="none").__getitems__([0, 1, 2, 3])
    for seed in ((0, 0), (0, 1)):
        examples = varied(labelled_rows, tiny_model("vit"), **options).at(seed)
        views = examples.__getitems__([0, 1, 2, 3])
        evaluated = dataclasses.replace(examples, options=None).__getitems__([0, 1, 2, 3])
        assert torch.equal(evaluated.inputs["pixel_values"], plain.inputs["pixel_values"])
        assert torch.equal(evaluated.targets, plain.targets)
        assert views.inputs["pixel_values"].shape == plain.inputs["pixel_values"].shape
        assert views.inputs["pixel_values"].dtype == torch.float32
        cropped = varied(labelled_rows, tiny_model("vit"), augment=examples.options.augment).at(seed)
        assert not torch.equal(views.inputs["pixel_values"], cropped.__getitems__([0, 1, 2, 3]).inputs["pixel_values"])


@pytest.mark.parametrize("augment", ["crop-flip", "crop"])
def test_with_all_else_off_a_view_is_the_crop_alone(augment, image_rows, tiny_model):
    from hftl.image.views import random_flip, random_resized_crop

    examples = varied(image_rows, tiny_model("vit"), augment=augment).at((7, 0, 2))
    views = []
    for row in (4, 0):
        rng = np.random.default_rng([7, 0, 2, row])
        view = random_resized_crop(Image.open(image_rows[row]["image"]["path"]), (32, 32), rng, 0.35)
        views.append(random_flip(view, rng) if augment == "crop-flip" else view)
    expected = examples.processor(views, do_resize=False, do_center_crop=False, return_tensors="pt")
    batch = examples.__getitems__([4, 0])
    assert torch.equal(batch.inputs["pixel_values"], expected["pixel_values"])
    assert torch.equal(batch.targets, torch.tensor([2, 0]))


@pytest.fixture
def colours():
    """Nine images of one colour each, red, green or blue: what is mixed can be read off the pixels."""
    images = [Image.new("RGB", (20, 16), colour) for colour in ("red", "#00ff00", "blue") for _ in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=5)})
    rows = datasets.Dataset.from_dict({"image": images, "label": np.arange(9) // 3}, features=features)
    return rows.cast_column("image", datasets.Image(decode=False))


def shares_of_colours(examples, batch: Batch) -> torch.Tensor:
    """How much red, green and blue there is in each image, shape (rows, 3)."""
    low, high = (
        examples.processor([Image.new("RGB", (32, 32), colour)], return_tensors="pt")["pixel_values"].mean((0, 2, 3))
        for colour in ("black", "white")
    )
    return (batch.inputs["pixel_values"].mean((2, 3)) - low) / (high - low)


@pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}], ids=str)
def test_labels_are_mixed_as_the_images_are(options, colours, tiny_model):
    examples = varied(colours, tiny_model("vit"), **options)
    seen = []
    for seed in range(12):
        batch = examples.at((seed,)).__getitems__(range(9))
        assert (batch.targets.shape, batch.targets.dtype) == ((9, 5), torch.float32)
        torch.testing.assert_close(batch.targets[:, :3], shares_of_colours(examples, batch), atol=1e-3, rtol=0)
        assert (batch.targets[:, 3:] == 0).all()
        torch.testing.assert_close(batch.targets.sum(dim=1), torch.ones(9))
        seen.append(batch.targets[:, :3] > 0)
    assert 0.5 < (torch.stack(seen).sum(dim=2) == 2).float().mean() < 0.8  # two thirds have another colour
    assert torch.stack(seen).any(dim=0).all()  # and each meets all of them


def test_mixed_rows_of_several_labels(colours, tiny_model):
    """Each row of one colour has the label of that colour; blue ones have a fourth besides."""
    multi_hot = np.eye(4, dtype=bool)[np.arange(9) // 3]
    multi_hot[6:, 3] = True
    feature = datasets.List(datasets.Value("bool"), length=4)
    rows = colours.remove_columns("label").add_column("label", multi_hot.tolist(), feature=feature)
    examples = varied(rows, tiny_model("vit"), mixup=1.0)
    batch = examples.at((0,)).__getitems__(range(9))
    torch.testing.assert_close(batch.targets[:, :3], shares_of_colours(examples, batch), atol=1e-3, rtol=0)
    torch.testing.assert_close(batch.targets[:, 3], batch.targets[:, 2])
    assert ((batch.targets > 0) & (batch.targets < 1)).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_mixed_labels_is_the_mixture_of_their_losses(smoothing):
    loss = ImageClassification(data="a", label_smoothing=smoothing).objective(ROWS)
    one, other = (loss(outputs(LOGITS), Batch({}, torch.tensor(ids), torch.arange(4))) for ids in ([0] * 4, [2] * 4))
    targets = torch.tensor([[0.3, 0.0, 0.7]] * 4)
    torch.testing.assert_close(loss(outputs(LOGITS), Batch({}, targets, torch.arange(4))), 0.3 * one + 0.7 * other)


def test_a_mixed_view_has_its_own_random_partner(labelled_rows, tiny_model):
    """Not the partner's view of that epoch: with one row alone, which is its own partner, two views are mixed."""
    alone = labelled_rows.select([0])
    mixed = varied(alone, tiny_model("vit"), mixup=100.0).at((0,)).__getitems__([0])
    single = varied(alone, tiny_model("vit")).at((0,)).__getitems__([0])
    assert not torch.allclose(mixed.inputs["pixel_values"], single.inputs["pixel_values"], atol=0.1)
    assert mixed.targets.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rand_augment": -1}, ("rand_augment", "at least 0")),
        ({"rand_augment": 2, "magnitude": 10.5}, ("magnitude", "at most 10")),
        ({"rand_augment": 2, "magnitude": -1.0}, ("magnitude", "at least 0")),
        ({"magnitude": 5.0}, ("magnitude", "rand_augment")),
        ({"erasing": 1.1}, ("erasing", "at most 1")),
        ({"erasing": float("nan")}, ("erasing", "nan")),
        ({"mixup": -0.1}, ("mixup", "at least 0")),
        ({"cutmix": float("inf")}, ("cutmix", "inf")),
    ],
    ids=str,
)
def test_options_of_views_out_of_range(options, words, one_line_error):
    with one_line_error(*words):
        ImageClassification(data="a", **options)


@pytest.mark.parametrize("family", ["vit", "efficientnet"])
def test_a_picture_of_the_training_rows(family, photos, tiny_model):
    paths = sorted(str(path) for path in photos.rglob("*.png"))
    rows = datasets.Dataset.from_dict({"image": [{"path": path, "bytes": None} for path in paths]})
    plain = varied(rows, tiny_model(family), training=False).picture()
    assert plain.size == (8 * 32, 4 * 32)
    for number, path in ((0, paths[0]), (31, paths[-1])):
        left, top = 32 * (number % 8), 32 * (number // 8)
        shown = np.asarray(plain.crop((left, top, left + 32, top + 32)), dtype=float)
        whole = np.asarray(Image.open(path), dtype=float)
        np.testing.assert_allclose(shown.mean((0, 1)), whole.mean((0, 1)), atol=4)
    random = varied(rows, tiny_model(family)).at((0,)).picture()
    assert random.size == plain.size
    assert random.tobytes() != plain.tobytes()
    assert varied(rows.select(range(3)), tiny_model(family), training=False).picture().size == (8 * 32, 32)


@pytest.mark.parametrize("size", [16, 48])
def test_image_size(size, image_rows, tiny_model):
    task = ImageClassification(data="a", image_size=size)
    for processor in (task.load_processor(str(tiny_model("resnet")), False),):
        assert view_size(processor) == (size, size)
        for augment in (False, True):
            batch = task.examples(image_rows, processor, augment).at((0,)).__getitems__([0, 1])
            assert batch.inputs["pixel_values"].shape == (2, 3, size, size)


def test_a_crop_keeps_its_proportion_to_the_resized_image(tmp_path, tiny_model):
    from transformers import MobileNetV2ImageProcessor

    shutil.copy(tiny_model("mobilenet_v2") / "config.json", tmp_path)
    MobileNetV2ImageProcessor().save_pretrained(tmp_path)  # resizes to 256, then cuts out 224
    plain = ImageClassification(data="a").load_processor(str(tmp_path), False)
    assert view_size(plain) == (224, 224)
    small = ImageClassification(data="a", image_size=112).load_processor(str(tmp_path), False)
    assert view_size(small) == (112, 112)
    assert small.size["shortest_edge"] == 128


def test_a_processor_that_keeps_each_images_shape(tmp_path, one_line_error):
    from transformers import MobileNetV2ImageProcessor

    with one_line_error("do not stack", "do_center_crop"):
        view_size(MobileNetV2ImageProcessor(do_center_crop=False, size={"shortest_edge": 32}))


@pytest.mark.parametrize(
    ("task", "family"), [(ImageClassification(data="a"), "vit"), (TextClassification(data="a"), "bert")]
)
def test_a_model_without_a_processor(task, family, tmp_path, tiny_model, one_line_error):
    shutil.copy(tiny_model(family) / "config.json", tmp_path)
    with one_line_error(f"--model {tmp_path}", "loads from it"):
        task.load_processor(str(tmp_path), False)


# -- texts -----------------------------------------------------------------------------------------------------------


def test_texts_are_padded_to_the_longest_of_the_batch_and_on_to_eight(tiny_model):
    task = TextClassification(data="a", max_length=12)
    tokenizer = task.load_processor(str(tiny_model("bert")), False)
    texts = ["good film", "bad", "the plot was not very good", "good " * 7, "bad " * 20]
    examples = task.examples(rows_of(texts), tokenizer, augment=False)
    assert examples.lengths.tolist() == [4, 3, 8, 9, 12]
    batch = examples.__getitems__([1, 0])
    assert batch.inputs["attention_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 4 + [0] * 4]
    assert batch.inputs["input_ids"][0, 3:].tolist() == [tokenizer.pad_token_id] * 5
    assert batch.targets.tolist() == [1, 0]
    shapes = [tuple(examples.__getitems__(rows).inputs["input_ids"].shape) for rows in ([2], [3, 0], [0, 4])]
    assert shapes == [(1, 8), (2, 12), (2, 12)]  # never more than the model is to see


@pytest.mark.parametrize(
    ("truncation", "words", "part"),
    [
        ("head", "the plot was not very good", "beginning"),
        ("tail", "of it not poor great awful", "end"),
        ("head+tail", "the plot it not poor great awful", "beginning and end"),
    ],
)
def test_long_texts_are_cut_as_told_and_it_is_said(truncation, words, part, tiny_model):
    text = "the plot was not very good actor and scene of it not poor great awful"
    limit = len(words.split()) + 2
    task = TextClassification(data="a", max_length=limit, truncation=truncation)
    tokenizer = task.load_processor(str(tiny_model("bert")), False)
    examples = task.examples(rows_of([text, "bad film"]), tokenizer, augment=False)
    ids = examples.__getitems__([0]).inputs["input_ids"][0]
    assert tokenizer.decode(ids) == f"[CLS] {words} [SEP]"
    assert examples.notes == (
        f"1 of 2 texts are longer than {limit} tokens; their {part} is used (--task.max-length, --task.truncation)",
    )


def test_a_text_of_exactly_the_most_tokens_is_whole(tiny_model):
    task = TextClassification(data="a", max_length=8)
    tokenizer = task.load_processor(str(tiny_model("bert")), False)
    examples = task.examples(rows_of(["the plot was not very good"]), tokenizer, augment=False)
    assert (examples.lengths.tolist(), examples.notes) == ([8], ())


def test_the_model_limits_the_length(tiny_model):
    tokenizer = TextClassification(data="a", max_length=500).load_processor(str(tiny_model("bert")), False)
    assert tokenizer.model_max_length == 64


def test_a_tokenizer_without_padding(tiny_model, tmp_path, one_line_error):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model("bert"))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(tiny_model("bert") / "config.json", tmp_path)
    with one_line_error(str(tmp_path), "no padding token"):
        TextClassification(data="a").load_processor(str(tmp_path), False)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("ConvNextImageProcessor", {"shortest_edge": 64}),
        ("ViTImageProcessor", {"height": 64, "width": 64}),
        ("MobileNetV2ImageProcessor", {"shortest_edge": 64}),
    ],
)
def test_every_kind_of_processor_can_be_resized(kind, size):
    import transformers

    from hftl.image.processors import resize, view_size

    processor = getattr(transformers, kind)(size=size)
    resize(processor, 48)
    assert view_size(processor) == (48, 48)


def test_a_label_map_without_a_kept_head_is_refused(one_line_error):
    from hftl.tasks import ImageClassification

    with one_line_error("--task.label-map", "--keep-head"):
        ImageClassification("x", label_map={"a": "b"}).load_data(0, "m", keep_head=False, trust_remote_code=False)


def test_two_classes_of_one_name_keep_the_higher_probability():
    import numpy as np

    from hftl.tasks import ImageClassification

    logits = np.log(np.array([[0.7, 0.1, 0.2]], dtype=np.float32))
    (answer,) = ImageClassification("x").answers({"logits": logits}, ROWS, ("crane", "heron", "crane"), {})
    assert answer["label"] == "crane"
    assert answer["score"] == pytest.approx(0.7)
    assert answer["scores"]["crane"] == pytest.approx(0.7)
