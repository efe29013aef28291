"""The command that measures a GPU, without one."""

from __future__ import annotations

from benchmarks import cuda


def test_a_digest_keeps_tables_and_faults_and_is_bounded() -> None:
    section = cuda.SECTIONS[0]
    noise = "\n".join(f"line {n} " + "x" * 80 for n in range(2000))
    output = f"{noise}\n| rows | ms |\n{noise}\nRuntimeError: out of memory\n"
    done = [cuda.Done(section, 0 if n else None, 1.0, output) for n in range(6)]
    found = cuda.digest(done)
    assert len(found) <= cuda.DIGEST_CHARACTERS
    assert found.count("| rows | ms |") == found.count("RuntimeError: out of memory") == 6
    assert "environment: its time was over" in found and found.rstrip().endswith("1 s of 45")
