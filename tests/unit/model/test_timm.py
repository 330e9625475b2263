"""timm's models, in a process of their own that finds timm and torchvision: there is no torchvision for a CPU torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(os.environ.get("HFTL_TIMM", Path(sys.prefix) / "timm"))
"""Where ``make`` puts timm and torchvision, out of the way of everything else."""

pytestmark = pytest.mark.skipif(
    not (PACKAGES / "timm").is_dir(), reason=f"needs timm and torchvision, and {PACKAGES} has none; run make test"
)

DEFINED_FIRST = """
import torch
operators = torch.library.Library("torchvision", "DEF")
operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""torchvision's binary part does not load beside a CPU torch, and without these two it cannot be imported."""


HUB_FOLDER = """
import json, sys
from pathlib import Path
import numpy as np, timm, transformers
from PIL import Image
from timm.models import save_for_hf
from hftl.model.layers import LayerGroups
from hftl.tasks import ImageClassification

hub, photo, saved = map(Path, sys.argv[1:])
model = timm.create_model("mobilenetv3_small_100", num_classes=5)
save_for_hf(model, hub, safe_serialization=True)  # bare names of tensors, and no word of transformers
config = json.loads((hub / "config.json").read_text())
config["pretrained_cfg"].update({"input_size": [3, 64, 64], "crop_pct": 0.8, "interpolation": "bilinear"})
(hub / "config.json").write_text(json.dumps({**config, "model_args": None, "label_names": list("abcde")}))

task = ImageClassification("unused")
processor = task.load_processor(str(hub), False)
small = ImageClassification("unused", image_size=32).load_processor(str(hub), False)
loaded = task.load_model(str(hub), ("x", "y"), processor, False, 0.1, False)
loaded.model.save_pretrained(saved)
small.save_pretrained(saved)
kept = task.load_model(str(hub), tuple("abcde"), processor, True, 0.0, False).model.timm_model.state_dict()
image = Image.open(photo)
theirs = transformers.TimmWrapperImageProcessor(config["pretrained_cfg"])(image)["pixel_values"]
ours = processor(image, return_tensors="pt")["pixel_values"]
again = transformers.AutoImageProcessor.from_pretrained(saved)
print(json.dumps({
    "new": loaded.new,
    "head": LayerGroups.of(loaded.model).parameters["head"],
    "kept": all(tensor.equal(kept[name]) for name, tensor in model.state_dict().items()),
    "shape": ours.shape,
    "off": float((ours - theirs).abs().max() * max(processor.image_std) * 255),
    "again": (type(again).__name__, again(image, return_tensors="pt")["pixel_values"].shape),
    "answers": transformers.pipeline("image-classification", str(saved))(str(photo)),
}))
"""


def with_timm(code: str, *arguments: str) -> str:
    """What a fresh Python that has timm prints last."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGES), *sys.path])}
    command = [sys.executable, "-c", DEFINED_FIRST + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("file", "tests"), [("tasks/test_walk.py", "timm"), ("features/test_replay.py", "timm or family_without_a_neck")]
)
def test_timm_models_go_where_all_go(file: str, tests: str) -> None:
    passed = with_timm(
        "import pytest, sys\n"
        "class Count:\n"
        "    passed = 0\n"
        "    def pytest_runtest_logreport(self, report):\n"
        "        self.passed += report.when == 'call' and report.passed\n"
        "count = Count()\n"
        "code = pytest.main([sys.argv[1], '-k', sys.argv[2], '-p', 'no:cacheprovider'], plugins=[count])\n"
        "print(count.passed)\n"
        "sys.exit(code)",
        str(Path(__file__).parents[1] / file),
        tests,
    )
    assert passed == {"tasks/test_walk.py": "4", "features/test_replay.py": "8"}[file]


def test_a_folder_as_the_hub_has_them(tmp_path: Path, photos: Path) -> None:
    """Weights under timm's own names; the processor becomes one that can be saved, resized, and used without timm."""
    photo = photos / "test" / "red" / "0.png"
    shown = json.loads(with_timm(HUB_FOLDER, str(tmp_path / "hub"), str(photo), str(tmp_path / "saved")))
    assert shown["new"] == shown["head"] == [f"timm_model.classifier.{part}" for part in ("weight", "bias")]
    assert shown["kept"]
    assert shown["shape"] == [1, 3, 64, 64]
    assert shown["off"] < 1.5  # of 255
    assert shown["again"] == ["BitImageProcessor", [1, 3, 32, 32]]
    assert sorted(answer["label"] for answer in shown["answers"]) == ["x", "y"]
