"""The weights file: what is refused in it, and that the reader here reads what the reference
writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from pipelines.bundle import files
from pipelines.bundle import tensors as tensorfile
from pipelines.bundle.bundle import INDEX, Bundle
from pipelines.errors import BundleRefused
from tests.support.tinybundle import refused, reseal

WEIGHTS = "weights/model.safetensors"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def _weights(bundle: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in Bundle.open(bundle).tensors().items()}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers_are_refused(bundle: Path, value: float) -> None:
    tensors = _weights(bundle)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[-1] = value
    (bundle / WEIGHTS).write_bytes(tensorfile.to_bytes(tensors))
    reseal(bundle)
    refused(bundle, "weights", name)


def _header(content: bytes) -> dict[str, dict[str, object]]:
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, object]] = json.loads(content[8 : 8 + length])
    return header


def _with_header(content: bytes, header: object) -> bytes:
    length = int.from_bytes(content[:8], "little")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _entry_changed(key: str, value: object) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        header = _header(content)
        header[sorted(header)[0]][key] = value
        return _with_header(content, header)

    return change


LIES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda c: c[:-4],
    "longer": lambda c: c + b"\0\0\0\0",
    "header length beyond the file": lambda c: (len(c) * 2).to_bytes(8, "little") + c[8:],
    "header length of 2^63": lambda c: (1 << 63).to_bytes(8, "little") + c[8:],
    "header length too short": lambda c: (64).to_bytes(8, "little") + c[8:],
    "empty": lambda c: b"",
    "header only length": lambda c: c[:8],
    "other dtype": _entry_changed("dtype", "F64"),
    "unknown dtype": _entry_changed("dtype", "F4"),
    "other shape": _entry_changed("shape", [7]),
    "negative shape": _entry_changed("shape", [-1, -4]),
    "huge shape": _entry_changed("shape", [1 << 62, 1 << 62]),
    "overlap": _entry_changed("data_offsets", [0, 4]),
    "offsets turned": _entry_changed("data_offsets", [8, 0]),
    "offsets not numbers": _entry_changed("data_offsets", ["0", "4"]),
    "not an entry": lambda c: _with_header(c, {**_header(c), "extra": 3}),
    "hole": lambda c: _with_header(c, dict(list(_header(c).items())[1:])),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_weights_file_that_lies_is_refused(bundle: Path, lie: str) -> None:
    path = bundle / WEIGHTS
    path.write_bytes(LIES[lie](path.read_bytes()))
    reseal(bundle)
    with pytest.raises(BundleRefused) as caught:
        Bundle.open(bundle)
    assert caught.value.check in ("weights", "format")


def test_a_tensor_in_two_shards_is_refused(bundle: Path) -> None:
    shutil.copy(bundle / WEIGHTS, bundle / "weights" / "second.safetensors")
    reseal(bundle)
    refused(bundle, "weights", "in an earlier file")


def test_an_index_that_lists_other_tensors_is_refused(bundle: Path) -> None:
    (bundle / INDEX).write_text('{"weight_map": {"a": "model.safetensors"}}')
    reseal(bundle)
    refused(bundle, "weights", "index")


# ---- our reader of the safetensors layout against the reference writer -----------------------


def test_tensors_read_back_bit_for_bit() -> None:
    tensors = {
        "f32": torch.randn(3, 4),
        "bf16": torch.randn(5).bfloat16(),
        "f16": torch.randn(2, 1, 3).half(),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "i64": torch.arange(4),
    }
    for content in (save(tensors), tensorfile.to_bytes(tensors)):
        identity = files.FileIdentity(0, 0, len(content), 0, 0)
        file = files.File("x", identity, bytearray(content), sha256="")
        read = tensorfile.read_tensors(file)
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)
