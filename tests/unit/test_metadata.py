"""Metadata of an ONNX file beside ONNX's own reader: read, replaced, refused when the file is broken."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from shared import errors, metadata
from shared.specs import Preprocessing, Resize
from tests.onnx_graphs import mean_model

CONTRACT = Preprocessing(resize=Resize(height=8, width=8))
LABELS = ["röd", "green", ""]
Pairs = dict[str, str]

PAIRS = st.dictionaries(st.text(max_size=20) | st.sampled_from(sorted(metadata.OURS)), st.text(max_size=300))


def model_with(folder: Path, pairs: Pairs) -> Path:
    path = mean_model(folder / "mean")
    model = onnx.load_model(path)
    onnx.helper.set_model_props(model, pairs)
    path.write_bytes(model.SerializeToString())
    return path


def written(path: Path, pairs: Pairs) -> ModelProto:
    with (target := path.with_name("written")).open("wb") as file:
        metadata.write(path, file.fileno(), pairs)
    return onnx.load_model(target)


def pairs_of(model: ModelProto) -> Pairs:
    return {item.key: item.value for item in model.metadata_props}


@given(PAIRS, PAIRS)
def test_what_is_written_is_what_onnx_reads(
    tmp_path_factory: pytest.TempPathFactory, before: Pairs, ours: Pairs
) -> None:
    ours = {key: value for key, value in ours.items() if key in metadata.OURS}
    path = model_with(tmp_path_factory.mktemp("model"), before)
    assert metadata.read(path) == {key: value for key, value in before.items() if key in metadata.OURS}
    model = written(path, ours)
    kept = {key: value for key, value in before.items() if key not in metadata.OURS}
    assert pairs_of(model) == kept | ours
    assert len(model.metadata_props) == len(kept | ours)
    original = onnx.load_model(path)
    del original.metadata_props[:], model.metadata_props[:]
    assert model == original


def test_what_others_wrote_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    model = onnx.load_model(model_with(tmp_path, {"small": "kept", "large": "x" * (metadata.MAX_FOREIGN + 1)}))
    model.doc_string = "d" * metadata.MAX_FOREIGN
    onnx.helper.set_model_props(model, pairs_of(model) | {f"part{n}": "x" * 100_000 for n in range(30)} | {"last": "1"})
    (path := tmp_path / "large").write_bytes(model.SerializeToString())
    with (tmp_path / "target").open("wb") as file:
        left_out = metadata.write(path, file.fileno(), metadata.describing(CONTRACT, LABELS))
    found = onnx.load_model(tmp_path / "target")
    assert {"small", "last", metadata.CONTRACT, metadata.LABELS} < pairs_of(found).keys()
    assert "large" not in pairs_of(found)
    assert not found.doc_string
    assert found.graph == model.graph
    assert found.ByteSize() < metadata.MAX_FOREIGN + 10_000
    for item in list(found.metadata_props):
        if item.key in metadata.OURS:
            found.metadata_props.remove(item)
    assert left_out == model.ByteSize() - found.ByteSize()


def test_contract_and_labels_come_back(tmp_path: Path) -> None:
    path = model_with(tmp_path, metadata.describing(CONTRACT, LABELS))
    pairs = metadata.read(path)
    assert metadata.contract_in(pairs) == CONTRACT
    assert metadata.labels_in(pairs) == LABELS
    assert metadata.contract_in({}) is metadata.labels_in({}) is None
    assert metadata.describing(None, None) == {}


def test_a_contract_of_before_a_field_was_added_is_still_one() -> None:
    pairs = {metadata.CONTRACT: '{"resize":{"height":8,"width":8}}', metadata.CONTRACT_HASH: "of its time"}
    assert metadata.contract_in(pairs) == CONTRACT


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({metadata.CONTRACT: "{"}, "cannot be read"),
        ({metadata.CONTRACT: '{"resize":{"height":0,"width":8}}'}, "cannot be read"),
        (metadata.describing(CONTRACT, None) | {metadata.CONTRACT_HASH: "0" * 16}, "one of them was changed"),
    ],
)
def test_a_contract_that_is_none(pairs: Pairs, said: str) -> None:
    with pytest.raises(errors.BadModel, match=said):
        metadata.contract_in(pairs)


@pytest.mark.parametrize("labels", ["[1]", "{}", "[", "[]", "[" * 100_000, '["' + "a" * 201 + '"]'])
def test_labels_that_are_none(labels: str) -> None:
    with pytest.raises(errors.BadModel, match="cannot be read"):
        metadata.labels_in({metadata.LABELS: labels})


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "file"
    path.write_bytes(content)
    with contextlib.suppress(errors.BadModel):
        metadata.read(path)


def test_a_pair_of_a_million_parts_is_none(tmp_path: Path) -> None:
    content = mean_model(tmp_path / "mean").read_bytes()
    parts = b"\x0a\x01k" * 1_000_000
    (tmp_path / "bad").write_bytes(content + b"\x72" + b"\xc0\x8d\xb7\x01" + parts)
    with pytest.raises(errors.BadModel, match="no pairs of a key and a value"):
        metadata.read(tmp_path / "bad")


def test_a_file_that_is_cut_off_or_has_no_end_of_parts(tmp_path: Path) -> None:
    content = mean_model(tmp_path / "mean").read_bytes()
    for bad in (content[:-1], b"\x08\x01" * (metadata.MAX_FIELDS + 1)):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(errors.BadModel):
            metadata.read(tmp_path / "bad")
