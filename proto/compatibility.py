"""What this tree's .proto files take from the wire that the last release promised.

    python -m proto.compatibility             print what breaks; exit code 1 if anything does
    python -m proto.compatibility --accept    store the contract as it is now (proto/accepted.json)

An addition breaks nothing. A field, value or method that was removed, renamed, renumbered or given
another type does: programs that were built against the release would misread or miss it.
`--accept` is for a release, and for a break that the changelog announces.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from proto import admin_pb2, inference_pb2, observe_pb2

FOLDER = Path(__file__).resolve().parent
ACCEPTED = FOLDER / "accepted.json"
# The link between the front and its replicas is left out: both ends are of one installation.
OURS = (inference_pb2, observe_pb2, admin_pb2)
STANDARD = FOLDER / "open_inference.binpb"
ACCEPT = "python -m proto.compatibility --accept"

# Full name of a message, enum or service -> name of a field, value or method -> what it is.
Contract = dict[str, dict[str, str]]


def contract() -> Contract:
    """The contract of the committed stubs."""
    files = [_file_of(module) for module in OURS]
    files += descriptor_pb2.FileDescriptorSet.FromString(STANDARD.read_bytes()).file
    found: Contract = {}
    for file in files:
        found.update(_of_scope(file.package, file.message_type, file.enum_type))
        for service in file.service:
            methods = {method.name: _method(method) for method in service.method}
            found[f"{file.package}.{service.name}"] = methods
    return found


def accepted(path: Path = ACCEPTED) -> Contract:
    """The contract of the last release."""
    stored: Contract = json.loads(path.read_text())
    return stored


def breaks(before: Mapping[str, Mapping[str, str]], now: Contract) -> list[str]:
    """One sentence for each promise of `before` that `now` does not keep, with its remedy."""
    found = []
    for owner, members in before.items():
        if owner not in now:
            found.append(f"{owner} was removed. {_remedy('it')}")
            continue
        for name, was in members.items():
            change = _change(name, was, now[owner])
            if change:
                found.append(f"{owner}.{name} {change}. {_remedy(f'`{name}` as `{was}`')}")
    return found


def main(argv: Sequence[str] | None = None, path: Path = ACCEPTED) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if given not in ([], ["--accept"]):
        sys.stderr.write(f"usage: {ACCEPT.removesuffix(' --accept')} [--accept]\n")
        return 2
    now = contract()
    if given:
        path.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        sys.stdout.write(f"stored {path.name}: {len(now)} messages, enums and services\n")
        return 0
    found = breaks(accepted(path), now)
    sys.stdout.write("".join(f"{sentence}\n" for sentence in found) or "nothing breaks\n")
    return 1 if found else 0


def _change(name: str, was: str, members: Mapping[str, str]) -> str:
    """What became of one member; "" when it is as it was."""
    if name in members:
        return "" if members[name] == was else f"was `{was}` and is `{members[name]}`"
    renamed = next((other for other, what in members.items() if what == was), None)
    return f"was renamed `{renamed}`" if renamed else "was removed"


def _remedy(what: str) -> str:
    return (
        f"Keep {what} and add beside it; to break it on purpose, announce it in CHANGELOG.md "
        f"and run `{ACCEPT}`"
    )


def _file_of(module: Any) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file


def _of_scope(scope: str, messages: Any, enums: Any) -> Iterator[tuple[str, dict[str, str]]]:
    for enum in enums:
        yield f"{scope}.{enum.name}", {value.name: str(value.number) for value in enum.value}
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name, {field.name: _field(field) for field in message.field}
        yield from _of_scope(name, message.nested_type, message.enum_type)


def _field(field: Any) -> str:
    """Such as `3 repeated string` or `4 trefoil.v1.Stamp`."""
    kind = field.type_name.removeprefix(".") or _word(field, "Type", field.type)
    label = _word(field, "Label", field.label)
    return f"{field.number} {'repeated ' if label == 'repeated' else ''}{kind}"


def _word(field: Any, enum: str, number: int) -> str:
    """`string` for TYPE_STRING."""
    name: str = field.DESCRIPTOR.enum_types_by_name[enum].values_by_number[number].name
    return name.partition("_")[2].lower()


def _method(method: Any) -> str:
    takes, gives = method.input_type.removeprefix("."), method.output_type.removeprefix(".")
    sent = "stream " if method.client_streaming else ""
    answered = "stream " if method.server_streaming else ""
    return f"{sent}{takes} -> {answered}{gives}"


if __name__ == "__main__":
    sys.exit(main())
