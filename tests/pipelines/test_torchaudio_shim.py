"""torchaudio and the models of transformers import whether or not the native extension loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.strip()


def test_package_itself_imports_neither_torch_nor_transformers() -> None:
    heavy = "sorted({'torch', 'torchaudio', 'transformers'} & set(sys.modules))"
    assert run(f"import sys, pipelines, pipelines.errors; print({heavy})") == "[]"


def test_torchaudio_works_behind_the_shim_and_its_missing_parts_say_so_when_called() -> None:
    code = (
        "import pipelines, torch, torchaudio.functional as f, torchaudio._extension as e\n"
        "print(f.resample(torch.ones(441), 44100, 16000).shape[0])\n"
        "if e._IS_TORCHAUDIO_EXT_AVAILABLE: print('available')\n"
        "else:\n"
        "    @e.fail_if_no_align\n"
        "    def align(): pass\n"
        "    try: align()\n"
        "    except RuntimeError as error: print('align' in str(error))\n"
    )
    assert run(code).split() in (["160", "available"], ["160", "True"])


def test_installing_twice_adds_one_finder() -> None:
    code = (
        "import sys, pipelines; from pipelines import torchaudio_shim as s; s.install(); "
        "print(sum(isinstance(f, s._ExtensionFinder) for f in sys.meta_path))"
    )
    assert run(code) == "1"
