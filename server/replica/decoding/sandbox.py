"""The sandbox of a decoder process: inside it can compute, allocate up to a limit, and read and
write the descriptors that it has. It cannot open, connect, start or signal anything.

Limits (setrlimit) apply everywhere. On Linux for x86-64 and aarch64 a filter of system calls
(seccomp, a BPF program) is added: a call that is not listed fails with EPERM. If the filter cannot
be set, the reason is returned and shown in `server status`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_MODE_FILTER = 2
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # codes of classic BPF
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_PROT_EXEC = 4

# All calls that CPython, its allocator and the decoders need to compute. They cannot map memory
# that is both new and executable, nor signal another process: see _rules.
_PLAIN = (
    "read write close lseek munmap brk mremap madvise rt_sigaction rt_sigprocmask rt_sigreturn "
    "sigaltstack futex getpid gettid exit exit_group clock_gettime sched_yield getrandom "
    "restart_syscall sched_getaffinity rseq"
).split()


@dataclass(frozen=True, slots=True)
class _Machine:
    """`architecture` is the kernel's AUDIT_ARCH value; `calls` the numbers of system calls."""

    architecture: int
    calls: Mapping[str, int]


_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(
        0xC000003E,
        {
            "read": 0,
            "write": 1,
            "close": 3,
            "lseek": 8,
            "mmap": 9,
            "mprotect": 10,
            "munmap": 11,
            "brk": 12,
            "rt_sigaction": 13,
            "rt_sigprocmask": 14,
            "rt_sigreturn": 15,
            "sched_yield": 24,
            "mremap": 25,
            "madvise": 28,
            "getpid": 39,
            "exit": 60,
            "sigaltstack": 131,
            "gettid": 186,
            "futex": 202,
            "sched_getaffinity": 204,
            "restart_syscall": 219,
            "clock_gettime": 228,
            "exit_group": 231,
            "tgkill": 234,
            "getrandom": 318,
            "rseq": 334,
        },
    ),
    "aarch64": _Machine(
        0xC00000B7,
        {
            "close": 57,
            "lseek": 62,
            "read": 63,
            "write": 64,
            "exit": 93,
            "exit_group": 94,
            "futex": 98,
            "clock_gettime": 113,
            "sched_getaffinity": 123,
            "sched_yield": 124,
            "restart_syscall": 128,
            "tgkill": 131,
            "sigaltstack": 132,
            "rt_sigaction": 134,
            "rt_sigprocmask": 135,
            "rt_sigreturn": 139,
            "getpid": 172,
            "gettid": 178,
            "brk": 214,
            "munmap": 215,
            "mremap": 216,
            "mmap": 222,
            "mprotect": 226,
            "madvise": 233,
            "getrandom": 278,
            "rseq": 293,
        },
    ),
}

# (code, jump if true, jump if false, operand); jumps count from the next instruction.
Instruction = tuple[int, int, int, int]


def shut_in(address_space: int, machine: str | None = None) -> str:
    """Enter the sandbox for the rest of this process; call it in its only thread. `address_space`
    is in bytes; `machine` is a name as of platform.machine(), by default this machine's. Returns a
    description of what applies: "seccomp and limits", or "limits only" with the reason.

    Raises OSError when not even the limits can be set.
    """
    for name, value in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),  # a crash must not write a caller's picture to disk
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(name, (value, value))
    reason = _filter(machine or platform.machine())
    return f"limits only ({reason})" if reason else "seccomp and limits"


def die_with_parent() -> None:
    """Make the kernel end this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def program(machine: str, pid: int) -> bytes:
    """The filter in the kernel's form: instructions of 8 bytes. Raises KeyError for a machine whose
    system calls are not listed."""
    return b"".join(struct.pack("=HBBI", *step) for step in _rules(_MACHINES[machine], pid))


def _rules(machine: _Machine, pid: int) -> Iterator[Instruction]:
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _ALLOW)
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _IF_EQUAL, 1, 0, machine.architecture
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield _LOAD, 0, 0, _NUMBER
    for name in ("mmap", "mprotect"):
        yield _IF_EQUAL, 0, 4, machine.calls[name]
        yield _LOAD, 0, 0, _argument(2)
        yield _IF_ANY_BIT, 0, 1, _PROT_EXEC
        yield refuse
        yield allow
    yield _IF_EQUAL, 0, 4, machine.calls["tgkill"]  # abort() signals its own process
    yield _LOAD, 0, 0, _argument(0)
    yield _IF_EQUAL, 1, 0, pid
    yield refuse
    yield allow
    for name in _PLAIN:
        yield _IF_EQUAL, 0, 1, machine.calls[name]
        yield allow
    yield refuse


def _argument(index: int) -> int:
    """Offset of the low half of an argument in struct seccomp_data; both machines are
    little-endian."""
    return 16 + 8 * index


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _filter(machine: str) -> str:
    """Sets the filter; returns why it failed, or ""."""
    if sys.platform != "linux":
        return f"{sys.platform} has no seccomp"
    if machine not in _MACHINES:
        return f"no list of system calls for {machine}"
    instructions = program(machine, os.getpid())
    wanted = _Program(len(instructions) // 8, instructions)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(wanted), 0, 0),
    ):
        if prctl(*arguments):
            return f"prctl {arguments[0]}: {os.strerror(ctypes.get_errno())}"
    return ""
