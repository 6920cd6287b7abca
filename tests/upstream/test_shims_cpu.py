"""The adaptation that runs scripts for GPUs on the CPU, on stand-ins for their libraries."""

import os

import pytest
import torch


class TestCpu:
    @pytest.fixture
    def mode(self, load, monkeypatch):
        """Redirect CUDA to the CPU; return the mode, which is not active."""
        cuda = (
            *("is_available", "device_count", "current_device", "is_bf16_supported"),
            *("max_memory_allocated", "max_memory_reserved", "is_current_stream_capturing"),
            *("current_stream", "stream", "set_device", "synchronize", "empty_cache"),
            "reset_peak_memory_stats",
        )
        for name in cuda:
            monkeypatch.setattr(torch.cuda, name, lambda *_: False)
        self.started = []
        monkeypatch.setattr(
            torch.distributed,
            "init_process_group",
            lambda *given, **options: self.started.append((given, options)),
        )

        class Wrap:
            def __init__(self, module, *given, **options):
                self.made_of = (module, given, options)

        monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", Wrap)
        monkeypatch.setattr(torch.distributed.fsdp, "FullyShardedDataParallel", Wrap)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.setenv("RANK", "5")
        entered = []

        def enter(mode):
            entered.append(mode)

        monkeypatch.setattr(torch.overrides.TorchFunctionMode, "__enter__", enter)
        load("cpu")
        (made,) = entered
        return made

    def test_one_gpu_is_reported_that_never_waits(self, mode):
        cuda = torch.cuda
        assert (cuda.is_available(), cuda.device_count(), cuda.current_device()) == (True, 1, 0)
        assert cuda.is_bf16_supported(including_emulation=False) is False
        assert cuda.max_memory_allocated(device=0) == cuda.max_memory_reserved() == 0
        assert cuda.is_current_stream_capturing() is False
        assert cuda.current_stream(0).synchronize() is None
        assert cuda.current_stream().wait_stream(None) is None
        with cuda.stream(cuda.current_stream()):
            pass
        waits = (cuda.set_device, cuda.synchronize, cuda.empty_cache, cuda.reset_peak_memory_stats)
        assert [wait() for wait in waits] == [None] * 4

    def test_processes_and_wrappers_use_the_cpu(self, mode):
        torch.distributed.init_process_group("nccl", "env://", rank=1)
        torch.distributed.init_process_group(backend="nccl", rank=2)
        assert self.started == [(("gloo", "env://"), {"rank": 1}), (("gloo",), {"rank": 2})]
        ddp = torch.nn.parallel.DistributedDataParallel("net", device_ids=[3], static_graph=True)
        assert ddp.made_of == ("net", (), {"static_graph": True})
        fsdp = torch.distributed.fsdp.FullyShardedDataParallel("net", "group", device_id=3, b=1)
        options = {"device_id": torch.device("cpu"), "b": 1}
        assert fsdp.made_of == ("net", ("group",), options)
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        found = [os.environ[name] for name in names]
        assert found == ["5", "1", "0", "localhost", "29503"], "variables that are set are kept"

    @pytest.mark.parametrize(
        ("function", "arguments", "options", "expected"),
        [
            (torch.Tensor.to, (0, torch.half), {}, ("cpu", torch.half)),
            (torch.Tensor.to, ("cuda:1",), {}, ("cpu", torch.float32)),
            (torch.Tensor.to, (torch.device("cuda"),), {}, ("cpu", torch.float32)),
            (
                torch.Tensor.to,
                (),
                {"device": "cuda", "dtype": torch.float64},
                ("cpu", torch.float64),
            ),
            (torch.Tensor.to, ("meta",), {}, ("meta", torch.float32)),
            (torch.ones_like, (), {"device": "cuda"}, ("cpu", torch.float32)),
            (torch.ones_like, (), {"device": 0}, ("cpu", torch.float32)),
            (torch.ones_like, (), {"device": None}, ("cpu", torch.float32)),
            (torch.ones_like, (), {"device": torch.device("meta")}, ("meta", torch.float32)),
        ],
    )
    def test_devices_of_cuda_become_the_cpu(self, mode, function, arguments, options, expected):
        x = torch.zeros(2)
        made = mode.__torch_function__(function, (), (x, *arguments), options)
        assert (made.device.type, made.dtype) == expected

    def test_other_arguments_stay(self, mode):
        def given(*arguments, **options):
            return arguments, options

        arguments = ("cuda", 0, torch.device("cuda"))
        assert mode.__torch_function__(given, (), arguments, {"a": "cuda"}) == (
            arguments,
            {"a": "cuda"},
        )
        assert mode.__torch_function__(given, ()) == ((), {})

    def test_moves_to_a_gpu_return_the_tensor(self, mode):
        x = torch.ones(2)
        for function in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            assert mode.__torch_function__(function, (), (x, 0)) is x


def test_a_gpu_is_not_redirected(load, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    count, start = torch.cuda.device_count, torch.distributed.init_process_group
    load("cpu")
    assert torch.cuda.device_count is count and torch.distributed.init_process_group is start
