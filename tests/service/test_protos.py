"""The protocols are described in full: every rpc, message, field and value has its comment."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parents[2] / "protos"
FILES = sorted(PROTOS.glob("rhoselect/protos/*.proto"))


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    out = tmp_path_factory.mktemp("protos") / "set"
    flags = [f"-I{PROTOS}", "--include_source_info", f"--descriptor_set_out={out}"]
    assert protoc.main(["protoc", *flags, *map(str, FILES)]) == 0
    return FileDescriptorSet.FromString(out.read_bytes())


def test_everything_has_a_comment(descriptors: FileDescriptorSet) -> None:
    assert len(descriptors.file) == len(FILES) > 0
    named = [each for file in descriptors.file for each in described(file)]
    assert [name for name, commented in named if not commented] == []


def test_names_are_buf_s(descriptors: FileDescriptorSet) -> None:
    for file in descriptors.file:
        assert file.package == "rhoselect.v1"
        for enum in file.enum_type:
            prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper()
            assert all(value.name.startswith(prefix) for value in enum.value)
            assert (enum.value[0].name, enum.value[0].number) == (f"{prefix}_UNSPECIFIED", 0)
        calls = [method for service in file.service for method in service.method]
        for call in calls:
            assert call.input_type == f".rhoselect.v1.{call.name}Request"
            assert call.output_type == f".rhoselect.v1.{call.name}Response"


def test_the_floors_are_what_the_generated_code_needs() -> None:
    """It refuses older releases when it is imported, so pip must not install them."""
    project = tomllib.loads((PROTOS.parent / "pyproject.toml").read_text())["project"]
    service = project["optional-dependencies"]["service"]
    floors = dict(each.split(">=") for each in service)
    code = "".join(path.read_text() for path in PROTOS.rglob("*_pb2*.py"))
    assert {floors["grpcio"]} == set(re.findall(r"GRPC_GENERATED_VERSION = '(.*)'", code))
    assert {floors["protobuf"]} == set(re.findall(r"# Protobuf Python Version: (.*)", code))


def described(file: FileDescriptorProto) -> Iterator[tuple[str, bool]]:
    """(name, whether it has a comment) of all that a file defines."""
    commented = {tuple(at.path) for at in file.source_code_info.location if at.leading_comments}
    for number, service in enumerate(file.service):
        yield service.name, (6, number) in commented
        for place, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (6, number, 2, place) in commented
    for number, message in enumerate(file.message_type):
        yield message.name, (4, number) in commented
        for place, field in enumerate(message.field):
            yield f"{message.name}.{field.name}", (4, number, 2, place) in commented
    for number, enum in enumerate(file.enum_type):
        yield enum.name, (5, number) in commented
        for place, value in enumerate(enum.value):
            yield value.name, (5, number, 2, place) in commented
