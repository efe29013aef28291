"""Deals the connections to one port to several listening sockets, each host to one of them.

gRPC hands the calls of a server over one by one, in the order in which they came, 0.2 to 0.5 ms
each. Behind 900 calls of another host a call waited 0.3 to 1 s before any code here saw it. So the
port has several gRPC servers, which all hand over in turn, and a host shares one only with those
hosts that its address happens to be dealt with.

The sockets share the port by SO_REUSEPORT; a classic BPF program chooses the socket
(SO_ATTACH_REUSEPORT_CBPF in socket(7), Linux 4.6).
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import struct
import sys

LANES = 8
SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h

# From linux/bpf_common.h and linux/filter.h: instructions, and the offset of the network header.
_LOAD_BYTE, _LOAD_WORD, _TO_X, _RETURN = 0x30, 0x20, 0x07, 0x16
_AND, _XOR, _XOR_X, _MULTIPLY, _SHIFT, _MODULO = 0x54, 0xA4, 0xAC, 0x24, 0x74, 0x94
_JUMP, _JUMP_IF_EQUAL = 0x05, 0x15
_NETWORK = -0x100000 & 0xFFFFFFFF
_SOURCE_V4, _SOURCE_V6 = 12, (8, 12, 16, 20)
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog


def lanes() -> tuple[int, str]:
    """How many sockets a port can have, and why only one."""
    if sys.platform != "linux":
        return 1, f"{sys.platform} cannot deal connections to sockets by their address"
    try:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            attempt.bind(("127.0.0.1", 0))
            attempt.listen()
            _attach(attempt, LANES, 0)
    except OSError as error:
        return 1, f"connections cannot be dealt to sockets by their address: {error}"
    return LANES, ""


def claim(address: str) -> socket.socket:
    """Hold the address until the result is closed. Raises OSError while another server holds it:
    sockets that share a port would not notice each other. An abstract name belongs to the network
    namespace, as the port does, and ends with the process (unix(7))."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0trefoil {address}")
    except OSError:
        held.close()
        raise
    return held


def deal(port: int, count: int) -> None:
    """Choose among this process's `count` sockets that listen on the port by the address of the
    caller. Which hosts share a socket is random and differs at each start. Raises OSError."""
    seed = secrets.randbits(32)
    for name in os.listdir("/proc/self/fd"):
        try:
            end = socket.socket(fileno=int(name))
        except OSError:
            continue  # not a socket, or closed in between
        try:
            if _listens(end, port):
                _attach(end, count, seed)
        finally:
            end.detach()


def _listens(end: socket.socket, port: int) -> bool:
    try:
        if end.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        listening = end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(listening) and end.getsockname()[1] == port
    except OSError:
        return False


def _attach(end: socket.socket, count: int, seed: int) -> None:
    code = b"".join(_INSTRUCTION.pack(*one) for one in _choice(count, seed))
    kept = ctypes.create_string_buffer(code, len(code))
    program = _PROGRAM.pack(len(code) // _INSTRUCTION.size, ctypes.addressof(kept))
    end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)


def _choice(count: int, seed: int) -> list[tuple[int, int, int, int]]:
    """The program: instruction, jump if true, jump if false, operand. Its result is the number of
    a socket."""
    v6 = [(_LOAD_WORD, 0, 0, _NETWORK + _SOURCE_V6[0])]
    for offset in _SOURCE_V6[1:]:
        v6 += [(_TO_X, 0, 0, 0), (_LOAD_WORD, 0, 0, _NETWORK + offset), (_XOR_X, 0, 0, 0)]
    return [
        (_LOAD_BYTE, 0, 0, _NETWORK),  # the IP version, in the upper half
        (_AND, 0, 0, 0xF0),
        (_JUMP_IF_EQUAL, 2, 0, 0x60),
        (_LOAD_WORD, 0, 0, _NETWORK + _SOURCE_V4),
        (_JUMP, 0, 0, len(v6)),
        *v6,
        (_XOR, 0, 0, seed),
        *_mixed(16, 0x85EBCA6B),  # the finalizer of MurmurHash3 (Appleby, public domain)
        *_mixed(13, 0xC2B2AE35),
        (_SHIFT, 0, 0, 16),
        (_MODULO, 0, 0, count),
        (_RETURN, 0, 0, 0),
    ]


def _mixed(shift: int, factor: int) -> list[tuple[int, int, int, int]]:
    return [
        (_TO_X, 0, 0, 0),
        (_SHIFT, 0, 0, shift),
        (_XOR_X, 0, 0, 0),
        (_MULTIPLY, 0, 0, factor),
    ]
