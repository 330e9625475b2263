import contextlib
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import DistributedType
from accelerate.state import AcceleratorState

from hftl.errors import HftlError
from hftl.runtime.machine import best_precision, channels_last, keep_freed_memory, suitable_threads, usable_cores
from hftl.runtime.randomness import random_states, seed_everything
from hftl.runtime.runtime import Runtime

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")


def draw() -> list[float]:
    return [
        random.random(),
        float(np.random.random()),
        float(torch.rand(1)),
        float(torch.nn.functional.dropout(torch.ones(64)).sum()),
    ]


def test_one_seed_fixes_every_generator():
    seed_everything((0, 1, 2))
    first = draw()
    seed_everything([0, 1, 2])
    assert draw() == first
    for other in ((0, 1, 3), (0, 1), (2, 1, 0)):
        seed_everything(other)
        assert not any(a == b for a, b in zip(draw()[:3], first[:3], strict=True)), other


def test_random_states_are_where_the_generators_stand():
    seed_everything((3,))
    random_, numpy_, torch_ = random.random, np.random.random, torch.rand
    random_(), numpy_(), torch_(1)
    states = json.loads(json.dumps({k: v for k, v in random_states().items() if k in ("python", "numpy")}))
    tensor = random_states()["torch"]
    expected = draw()
    seed_everything((4,))
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state((states["numpy"][0], np.array(states["numpy"][1], dtype=np.uint32), *states["numpy"][2:]))
    torch.set_rng_state(tensor)
    assert draw() == expected


def test_the_best_precision_computes():
    assert best_precision() in ("bf16", "fp16", "fp32")
    runtime = Runtime()
    assert runtime.precision == best_precision()
    layer = runtime.prepare_evaluation(torch.nn.Linear(4, 2))
    loss = layer(torch.ones(3, 4, device=runtime.device)).float().square().sum()
    runtime.backward(loss)
    assert torch.isfinite(runtime.unwrap(layer).weight.grad).all()


@needs_no_gpu
@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": False, "amx_bf16": False}])
def test_a_processor_without_bf16_computes_in_float32(capabilities, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert best_precision() == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert best_precision() == "bf16"


@needs_no_gpu
def test_fp16_needs_a_gpu(one_line_error):
    with one_line_error("precision: fp16 needs a GPU", "bf16 or fp32"):
        Runtime("fp16")


def output_dtype(runtime: Runtime) -> torch.dtype:
    """The type in which a prepared model computes: Accelerate casts outputs back, so look inside."""
    seen = []
    layer = torch.nn.Linear(4, 2)
    layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    model = runtime.prepare_evaluation(torch.nn.Sequential(layer))
    model(torch.ones(1, 4, device=runtime.device))
    return seen[0]


def test_runs_of_several_precisions_in_one_process():
    exact, half = Runtime("fp32"), Runtime("bf16")
    assert output_dtype(half) == torch.bfloat16
    assert output_dtype(exact) == torch.float32  # although the other was made since
    assert output_dtype(half) == torch.bfloat16
    assert output_dtype(Runtime("fp32")) == torch.float32
    assert output_dtype(half) == torch.bfloat16
    assert AcceleratorState().mixed_precision == "bf16"  # on a GPU, autocast would be in fp16 otherwise


def test_a_phase_starts_afresh():
    runtime, model = Runtime("bf16"), torch.nn.Sequential(torch.nn.Linear(4, 2))
    plain = model.forward
    for _ in range(2):
        prepared, optimizer = runtime.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
        assert prepared.forward != plain
        before = model[0].weight.detach().clone()
        runtime.backward(prepared(torch.ones(1, 4, device=runtime.device)).float().sum())
        optimizer.step()
        torch.testing.assert_close(model[0].weight.detach(), before - 0.5)
        optimizer.zero_grad()
        model = runtime.unwrap(prepared)
        assert model.forward == plain
        assert model[0].weight.dtype == torch.float32


def test_clipping():
    runtime = Runtime("fp32")
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:]}])  # one norm over all groups
    for norm, expected in ((None, 5.0), (10.0, 5.0), (1.0, 1.0)):
        for weight, value in zip(weights, (3.0, 4.0), strict=True):
            weight.grad = torch.tensor([value, 0.0])
        assert float(runtime.clip(optimizer, norm)) == 5.0  # the norm before
        after = torch.cat([weight.grad for weight in weights]).norm()
        assert float(after) == pytest.approx(expected, rel=1e-4)


def test_one_process():
    runtime = Runtime("fp32")
    assert (runtime.rank, runtime.world_size) == (0, 1)
    assert isinstance(runtime.no_sync(torch.nn.Linear(1, 1), when=False), contextlib.nullcontext)


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (["python3.11", "/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "run.py"], 2),
        (["python3.11", "/bin/accelerate", "launch", "--num-processes=3", "run.py"], 3),
        (["python3.11", "/bin/accelerate", "launch", "run.py"], None),
        (["bash", "-c", "run.py --num_processes 2"], None),
        (["python3.11", "/bin/accelerate", "launch", "--cpu", "--num_processes", "1", "run.py"], None),
    ],
)
def test_fewer_processes_than_asked_for_are_noted(command, asked, monkeypatch):
    """`accelerate launch --cpu --num_processes 2` starts one process and says nothing."""
    monkeypatch.setattr(
        "psutil.Process", lambda: SimpleNamespace(parent=lambda: SimpleNamespace(cmdline=lambda: command, environ=dict))
    )
    notes = Runtime("fp32").notes()
    if asked is None:
        assert notes == []
    else:
        assert f"{asked} processes were asked for and 1 started" in notes[0]
        assert f"torchrun --nproc_per_node {asked}" in notes[0]


def test_parameters_in_pieces_are_refused(monkeypatch, one_line_error):
    monkeypatch.setattr("hftl.runtime.runtime.Accelerator.distributed_type", DistributedType.FSDP)
    with one_line_error("FSDP", "not supported yet", "data parallel"):
        Runtime("fp32")


def test_once_on_a_single_process_is_the_call_itself(one_line_error):
    runtime = Runtime("fp32")
    assert runtime.once(lambda: 7) == 7
    assert runtime.gather("a") == ["a"]

    def fails():
        raise HftlError("this")

    with one_line_error("this"):
        runtime.once(fails)


def test_keeping_freed_memory_is_for_linux_alone(monkeypatch):
    asked = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: asked.append(name))
    monkeypatch.setattr("sys.platform", "darwin")
    keep_freed_memory()
    assert asked == []
    monkeypatch.setattr("sys.platform", "linux")
    keep_freed_memory()  # a C library without mallopt (None has no such attribute) is left alone
    assert asked == [None]


LAUNCHED = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("given", "cores", "environment", "launcher", "threads"),
    [
        (8, 8, {}, {}, 8),
        (64, 4, {}, {}, 4),  # a container
        (1, 8, {}, {}, 1),  # torch.set_num_threads(1)
        (1, 8, {**LAUNCHED, "OMP_NUM_THREADS": "1"}, {}, 4),  # torchrun's doing
        (1, 8, {**LAUNCHED, "OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1"}, 1),  # the user's
        (1, 1, {**LAUNCHED, "OMP_NUM_THREADS": "1"}, {}, 1),
        (3, 8, {"OMP_NUM_THREADS": "3"}, {}, 3),
        (8, 8, {"LOCAL_WORLD_SIZE": "2"}, {}, 4),  # a launcher that leaves each process all cores
    ],
)
def test_threads_are_a_process_s_share_unless_the_user_has_chosen(given, cores, environment, launcher, threads):
    assert suitable_threads(given, cores, environment, launcher) == threads


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, 1000),
        ({"cpu.max": "max 100000\n"}, 1000),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1000),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_usable_cores_are_those_of_affinity_and_quota(files, quota, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 128 if logical else 32)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == min(32, quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(2), raising=False)
    assert usable_cores(tmp_path) == min(2, quota)


def test_other_threads_are_noted(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("hftl.runtime.runtime.suitable_threads", lambda given, *_: given + 1)
    try:
        runtime = Runtime("fp32")
        assert torch.get_num_threads() == before + 1
        assert f"{before + 1} threads, not {before}" in runtime.notes()[0]
    finally:
        torch.set_num_threads(before)


def test_convolutions_have_their_channels_last_and_the_same_values():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv1d(3, 4, 3), torch.nn.Linear(4, 4))
    weight = model[0].weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    channels_last(model)
    assert model[0].weight is weight  # the optimizer's own
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_workers_are_those_asked_for_or_what_suits_the_device(monkeypatch):
    monkeypatch.setattr("hftl.runtime.runtime.usable_cores", lambda: 12)
    runtime = Runtime("fp32")
    for device, processes, workers in (("cpu", "1", 0), ("cuda", "1", 8), ("cuda", "2", 5), ("cuda", "16", 0)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        runtime.device = torch.device(device)
        assert runtime.workers(None) == workers
        assert runtime.workers(0) == 0
        assert runtime.workers(3) == 3
