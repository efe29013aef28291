import pytest
import torch

from pipelines.batch import Segments
from pipelines.collate import collate
from pipelines.models import device as devices
from tests.support.tinyrows import five_rows, tiny_backbone

CPU = torch.device("cpu")
GPU = torch.device("cuda:0")  # only named here, never touched


def test_what_is_asked_for_is_used_and_reported() -> None:
    assert devices.choose_device("cpu") == (CPU, "asked for")
    assert devices.choose_dtype("bfloat16", CPU, 10) == (torch.bfloat16, "asked for")
    assert devices.choose_threads(3, CPU) == (3, "asked for")


def test_auto_follows_what_there_is() -> None:
    device, reason = devices.choose_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu") and reason
    threads, reason = devices.choose_threads("auto", CPU)
    assert threads >= 1 and str(threads) in reason
    assert devices.choose_threads(0, CPU) == devices.choose_threads("auto", CPU)
    for bad in ("many", "-2", "1.5"):
        with pytest.raises(ValueError, match=f"'{bad}': expected auto or a number"):
            devices.choose_threads(bad, CPU)


def test_auto_dtype_is_exact_where_that_costs_nothing() -> None:
    assert devices.choose_dtype("auto", CPU, 3_000_000_000)[0] == torch.float32
    assert devices.choose_dtype("auto", GPU, 1_600_000)[0] == torch.float32
    assert devices.choose_dtype("auto", GPU, 3_000_000_000)[0] == torch.bfloat16


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:x", "cpu:1", ""])
def test_an_unknown_device_is_refused(asked: str) -> None:
    with pytest.raises(ValueError, match="device"):
        devices.choose_device(asked)


def test_a_lane_on_a_cpu_changes_nothing() -> None:
    lane = devices.UploadStream(CPU)
    value = Segments(1, 2, pad=torch.arange(2))
    there, event = lane.upload(value)
    lane.join(there, event)
    assert there is value and event is None


def test_a_batch_travels_in_one_block_and_comes_out_the_same() -> None:
    geometry = tiny_backbone().geometry
    batch = collate(five_rows(), lambda _row: ((65, 66, 258), (90, 258)), geometry)
    packed = devices.Packed.of(batch, pinned=False)
    there = packed.unpacked(packed.block.clone())
    ours, theirs = devices.tensors_of(batch), devices.tensors_of(there)
    assert len(ours) > 20
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert len({tensor.untyped_storage().data_ptr() for tensor in theirs if tensor.numel()}) == 1
    assert there.ids == batch.ids and there.tasks == batch.tasks
