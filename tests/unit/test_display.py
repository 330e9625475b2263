import io
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from rich.console import Console

from hftl import display, wording
from hftl.display import Display
from hftl.records import (
    Evaluated,
    EvaluationProgress,
    GroupRow,
    HeadSolved,
    PhaseEnded,
    PhaseStarted,
    Record,
    RunEnded,
    RunStarted,
    StepTaken,
)

BLOCKS, STEPS, EPOCHS = 6, 40, 2
LABELS = ["[red]", "cat\x1b[2J", "do\ng", "fish", "cow", "owl", "hen"]


def started(**changes: object) -> RunStarted:
    plain = {
        "folder": "runs/pets",
        "task": "image-classification",
        "model": "google/some-model",
        "device": "cpu",
        "precision": "bf16",
        "processes": 2,
        "batch_size": 32,
        "seed": 7,
        "rows": {"train": 1280, "validation": 297},
        "labels": LABELS,
        "notes": ["validation: cut from [bold]train[/bold]", "2 rows skipped"],
        "loaded": {
            "tensors": 312,
            "parameters": 2_200_000,
            "new": ["classifier.weight", "classifier.bias"],
            "dropped": [f"old.{n}" for n in range(8)],
        },
        "majority": {"accuracy": 0.25, "macro_f1": 0.1},
    }
    return RunStarted(**{**plain, **changes})


def groups(trained_blocks: int, lr: float) -> list[GroupRow]:
    blocks = [
        GroupRow(f"block {n}", 100_000, 100_000 if trains else 0, lr if trains else None)
        for n, trains in enumerate(n >= BLOCKS - trained_blocks for n in range(BLOCKS))
    ]
    return [
        GroupRow("stem", 50_000, 0, None),
        *blocks,
        GroupRow("neck", 0, 0, None),
        GroupRow("head", 12_345, 12_345, lr),
    ]


def stream() -> Iterator[Record]:
    yield started()
    for phase, (unfreeze, blocks, lr) in enumerate([("head", 0, 1e-3), ("2", 2, 5e-5)]):
        yield PhaseStarted(phase, unfreeze, EPOCHS, STEPS, lr, groups(blocks, lr))
        for epoch in range(EPOCHS):
            for step in range(epoch * STEPS, (epoch + 1) * STEPS):
                yield StepTaken(phase, epoch, step, 32, lr / 2, 0.75 if step % 10 == 9 else None, None)
            yield from (EvaluationProgress("validation", done, 297) for done in (0, 128, 256, 297))
            scores = {"loss": 0.412, "accuracy": 0.8 + 0.01 * epoch, "macro_f1": 0.7}
            yield Evaluated(phase, epoch, "validation", scores, epoch == 0, 3.2)
        yield PhaseEnded(phase, 0, {"accuracy": 0.8 + phase / 10}, phase == 1, 196 - phase, 12.3, "abcdef0123")
    yield RunEnded(
        1, 0, {"validation": {"accuracy": 0.9, "loss": 0.3}, "test": {"accuracy": 0.895}}, "runs/pets", 125.0
    )


def show(records: Iterator[Record], terminal: bool, seconds: float = 1.0) -> str:
    """What a display prints, where ``seconds`` pass between two records."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, record=True)
    moments = iter(range(100_000))
    with Display(console, clock=lambda: next(moments) * seconds) as shown:
        for record in records:
            shown(record)
    return console.export_text() if terminal else console.file.getvalue()


def squeezed(text: str) -> list[str]:
    """The lines with runs of spaces made one."""
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.mark.parametrize("terminal", [True, False])
def test_everything_a_run_tells_is_shown(terminal):
    lines = squeezed(show(stream(), terminal))
    expected = [
        "hftl image-classification",
        "model google/some-model",
        "data train 1,280 · validation 297 rows",
        "labels 7: [red], cat [2J, do g, fish, cow, +2 more",
        "device cpu · bf16 · 2 processes",
        "training batch size 32 (2 processes x 16 rows) · seed 7",
        "loaded 312 tensors with 2.2M parameters",
        "new classifier.weight, classifier.bias",
        "dropped old.0, old.1, old.2, old.3, old.4, +3 more",
        "majority accuracy 0.250 macro_f1 0.100",
        "folder runs/pets",
        "note validation: cut from [bold]train[/bold]",
        "note 2 rows skipped",
        "phase 0: head",
        "layers parameters trainable lr",
        "stem 50,000 frozen",
        "block 0-5 600,000 frozen",
        "head 12,345 12,345 1e-3",
        "trains 12,345 of 662,345 parameters (1.86 %), 2 epochs x 40 steps",
        "phase 0 · epoch 0 · validation: accuracy 0.800 macro_f1 0.700 loss 0.412 (kept) · 3.2 s",
        "phase 0 · epoch 1 · validation: accuracy 0.810 macro_f1 0.700 loss 0.412 · 3.2 s",
        "phase 0 ended · epoch 0 kept: accuracy 0.800 · 196 frozen tensors bit-equal"
        " · 2 processes agree on abcdef01 · 12 s",
        "phase 1: top 2 blocks",
        "block 0-3 400,000 frozen",
        "block 4-5 200,000 200,000 5e-5",
        "phase 1 ended early · epoch 0 kept: accuracy 0.900 · 195 frozen tensors bit-equal"
        " · 2 processes agree on abcdef01 · 12 s",
        "result after 2 min 05 s",
        "accuracy macro_f1 loss time",
        "majority · validation 0.250 0.100",
        "phase 0: head · validation 0.800 12 s",
        "phase 1: top 2 blocks · validation 0.900 12 s",
        "saved model · validation 0.900 0.300",
        "saved model · test 0.895",
        "model/ phase 1, epoch 0; transformers loads it",
    ]
    found = iter(lines)
    assert [line for line in expected if line not in found] == []  # all of them, in this order


def test_a_solved_head_and_the_second_pass_are_told():
    scores = {"accuracy": 0.8, "loss": 0.5}

    def solved_and_refit() -> Iterator[Record]:
        yield started(processes=1)
        for phase, refit in enumerate([False, True]):
            yield PhaseStarted(phase, "head", 0, STEPS, 3e-4, groups(0, 3e-4), solver="lbfgs", refit=refit)
            folds, cut = (0, {}) if refit else (5, {"accuracy": 0.75})
            yield HeadSolved(phase, "classi\nfier", 1280 + 297 * refit, 384, 0.0316, 1.25, folds, cut, 0.4)
            if not refit:
                yield Evaluated(phase, None, "validation", scores, True, 3.2)
            yield PhaseEnded(phase, None, {} if refit else scores, False, 196, 12.3, refit=refit)
        yield RunEnded(0, None, {"validation": scores, "test": scores}, "runs/pets", 125.0, refit=True)

    lines = squeezed(show(solved_and_refit(), terminal=False))
    expected = [
        "phase 0: head",
        "trains 12,345 of 662,345 parameters (1.86 %), solved",
        "classi fier solved for 1,280 rows of 384 features, L2 penalty 0.032 and temperature 1.250 chosen by 5 folds"
        " · by folds: accuracy 0.750 · 0.4 s",
        "phase 0 · solved · validation: accuracy 0.800 loss 0.500 (kept) · 3.2 s",
        "phase 0 ended · the solved head kept: accuracy 0.800 loss 0.500 · 196 frozen tensors bit-equal · 12 s",
        "phase 1: head, on all rows",
        "classi fier solved for 1,577 rows of 384 features, L2 penalty 0.032 and temperature 1.250 as declared · 0.4 s",
        "phase 1 ended · the solved head kept · 196 frozen tensors bit-equal · 12 s",
        "phase 0: head · validation 0.800 0.500 12 s",
        "phase 1: head, on all rows 12 s",
        "chosen model · validation 0.800 0.500",
        "saved model · test 0.800 0.500",
        "model/ phase 0, the solved head, trained once more on all rows; transformers loads it",
    ]
    found = iter(lines)
    assert [line for line in expected if line not in found] == []  # all of them, in this order


def test_a_log_has_no_control_characters():
    text = show(stream(), terminal=False)
    assert [c for c in text if not c.isprintable() and c != "\n"] == []


@pytest.mark.parametrize("seconds", [0.01, 1.0, 60.0])
def test_progress_in_a_log_is_bounded(seconds):
    moment = 0.0
    spoken: list[tuple[float, str]] = []
    console = Console(file=io.StringIO(), force_terminal=False, width=100)

    def clock() -> float:
        return moment

    with Display(console, clock) as shown:
        for record in stream():
            moment += seconds
            before = len(console.file.getvalue())
            shown(record)
            spoken.append((moment, console.file.getvalue()[before:]))
    steps = [(at, text) for at, text in spoken if " steps · " in text]
    first_epoch = [text for _, text in steps if text.startswith("  phase 0 · epoch 0")]
    assert len(first_epoch) == {0.01: 0, 1.0: 8, 60.0: 11}[seconds]
    lines = [at for at, text in spoken if text]
    progress = {at for at, text in spoken if " steps · " in text or " rows · " in text}
    assert all(later - earlier >= 5 for earlier, later in pairwise(lines) if later in progress)


def test_a_line_of_progress_says_where_how_fast_and_how_long():
    # A step a second, 32 rows each, a loss every ten; a line every five seconds.
    lines = squeezed(show(stream(), terminal=False))
    assert "phase 0 · epoch 0 · 15/40 steps · loss 0.750 · 25 s left · 32 rows/s · lr 5e-4" in lines
    assert "phase 0 · epoch 1 · 20/40 steps · loss 0.750 · 20 s left · 32 rows/s · lr 5e-4" in lines
    assert "phase 0 · epoch 1 · 40/40 steps · loss 0.750 · 32 rows/s · lr 5e-4" in lines
    assert [line for line in lines if line.startswith("validation · ")] == []  # 4 s long


def test_a_long_evaluation_speaks_in_a_log():
    lines = squeezed(show(iter([EvaluationProgress("test", done, 300) for done in (0, 100, 200)]), False, seconds=6))
    assert lines == ["test · 100/300 rows · 8.3 rows/s", "test · 200/300 rows · 11 rows/s"]


def test_bars_on_a_terminal_live_and_go():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    moments = iter(range(1000))
    records = stream()
    with Display(console, clock=lambda: float(next(moments))) as shown:
        for record in records:
            shown(record)
            if isinstance(record, StepTaken) and record.step == 19:
                shown._bars.refresh()
                break
        assert "20/40 steps · loss 0.750 · 20 s left · 32 rows/s · lr 5e-4" in console.file.getvalue()
        shown(Evaluated(0, 0, "validation", {"accuracy": 0.5}, True, 1.0))
        assert [task.visible for task in shown._bars.tasks] == [False, False]


def test_the_live_part_ends_when_the_run_fails():
    shown = Display(Console(file=io.StringIO(), force_terminal=True, width=100))

    def fail() -> None:
        with shown:
            assert shown._bars.live.is_started
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not shown._bars.live.is_started


def test_a_pretrained_model_is_only_scored():
    scores = {"accuracy": 0.7}
    lines = squeezed(
        show(
            iter(
                [
                    started(
                        labels=[],
                        notes=[],
                        processes=1,
                        loaded={"tensors": 3, "parameters": 9, "new": [], "dropped": []},
                    ),
                    Evaluated(None, None, "validation", scores, True, 1.0),
                    RunEnded(None, None, {"validation": scores}, "runs/pets", 2.0),
                ]
            ),
            terminal=False,
        )
    )
    assert "pretrained · validation: accuracy 0.700 (kept) · 1.0 s" in lines
    assert "saved model · validation 0.700" in lines
    assert "model/ the pretrained model; transformers loads it" in lines
    assert not any(line.split(" ")[0] in {"labels", "new", "dropped", "note", "phase"} for line in lines)


def test_blocks_collapse_only_where_they_are_alike():
    rows = [
        GroupRow("stem", 5, 0, None),
        GroupRow("block 0", 10, 0, None),
        GroupRow("block 1", 10, 0, None),
        GroupRow("block 2", 10, 4, 1e-4),
        GroupRow("block 3", 10, 10, 1e-4),
        GroupRow("block 4", 10, 10, 1e-3),
        GroupRow("block 5", 11, 11, 1e-3),
        GroupRow("neck", 0, 0, None),
        GroupRow("head", 7, 7, 1e-3),
    ]
    assert display.collapse(rows) == [
        ("stem", 5, 0, ()),
        ("block 0-1", 20, 0, ()),
        ("block 2", 10, 4, (1e-4,)),
        ("block 3-5", 31, 31, (1e-4, 1e-3)),
        ("head", 7, 7, (1e-3,)),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.score_text(0.87142), "0.871"),
        (wording.score_text(1.0), "1.000"),
        (wording.score_text(0.0), "0.000"),
        (wording.score_text(0.00012345), "0.000123"),
        (wording.score_text(-12345.6), "-12,346"),
        (wording.score_text(99.99), "99.990"),
        (wording.score_text(1.5e7), "1.5e+07"),
        (wording.score_text(float("nan")), "nan"),
        (wording.count_text(999_999), "999,999"),
        (wording.count_text(2_234_567), "2.2M"),
        (wording.count_text(999_999_999), "1.0B"),
        (wording.rate_text(1e-3), "1e-3"),
        (wording.rate_text(2.4301e-5), "2.43e-5"),
        (wording.rate_text(0.0), "0"),
        (wording.rate_text(9.999e-4), "1e-3"),
        (wording.seconds_text(0.04), "0.0 s"),
        (wording.seconds_text(9.96), "10 s"),
        (wording.seconds_text(59.7), "1 min 00 s"),
        (wording.seconds_text(3599.9), "1 h 00 min"),
        (wording.seconds_text(7505), "2 h 05 min"),
        (wording.trained_text(12_345, 2_200_000), "12,345 of 2.2M parameters (0.561 %)"),
        (wording.trained_text(10, 10), "10 of 10 parameters (100 %)"),
        (wording.phase_text("4", "lora"), "top 4 blocks, lora"),
        (wording.phase_text("all", "weights", refit=True), "all, on all rows"),
        (wording.length_text("steps", 1, 1_200), "1 epoch x 1,200 steps"),
        (wording.length_text("lbfgs", 0, 40), "solved"),
        (wording.length_text("lbfgs", 10, 40), "last layer solved, then 10 epochs x 40 steps"),
        (wording.place_text(1, 3), "phase 1, epoch 3"),
        (wording.place_text(0, None), "phase 0, the solved head"),
        (wording.depth_text("head"), "head"),
        (wording.depth_text("4"), "top 4 blocks"),
        (wording.depth_text("1"), "top block"),
        (wording.depth_text("0.25"), "top 25 % of the blocks"),
        (wording.few_text(["a", "b"], 2), "a, b"),
        (wording.few_text(["a", "b", "c"], 2), "a, b, +1 more"),
        (wording.one_line(" a\r\n\tb\x1b[31m "), "a b [31m"),
    ],
)
def test_numbers_and_names_as_text(text, expected):
    assert text == expected


def test_score_names_keep_their_order_with_the_loss_last():
    assert wording.score_names([{"loss": 1.0, "accuracy": 0.5}, {"exact": 0.1}]) == ["accuracy", "exact", "loss"]


def test_importing_the_display_is_light():
    code = "import sys, hftl.display; print([m for m in ('rich', 'torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def shown(renderable: object, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def test_the_start_says_how_a_step_is_cut():
    cases = {(1, 1): "batch size 32 ·", (2, 1): "32 (2 processes x 16 rows)", (1, 4): "32 (4 micro-batches x 8 rows)"}
    cases[2, 4] = "32 (2 processes x 4 micro-batches x 4 rows)"
    for (processes, accumulation), text in cases.items():
        assert text in shown(display.run_started(started(processes=processes, accumulation=accumulation)))


def test_a_phase_says_what_trains_of_its_blocks_and_what_no_gradient_reaches():
    told = shown(
        display.phase_started(PhaseStarted(1, "2", 1, 5, 1e-3, groups(2, 1e-3), "lora", idle=["a.mask_token"]))
    )
    assert "phase 1: top 2 blocks, lora" in told
    assert "no gradient reaches it: a.mask_token" in told
    plain = shown(display.phase_started(PhaseStarted(1, "2", 1, 5, 1e-3, groups(2, 1e-3))))
    assert "lora" not in plain
    assert "gradient" not in plain


def test_several_processes_say_that_they_agree():
    ended = PhaseEnded(0, 0, {"accuracy": 0.5}, False, 3, 1.0, "0123456789abcdef")
    assert "agree" not in display.phase_ended(ended).plain
    assert "2 processes agree on 01234567" in display.phase_ended(ended, 2).plain


def test_the_end_says_where_adapters_lie():
    ended = RunEnded(1, 0, {"validation": {"accuracy": 0.9}}, "runs/pets", 1.0, "adapter")
    told = shown(display.run_ended(ended, {}, []))
    assert "adapter/" in told
    assert "--merge-lora" in told
    assert "model/ " not in told.replace("whole model/", "")
