"""The uploads there are: which fields, which file, how large."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.schemas import DatasetForm, ModelForm
from gateway.uploads import Kind, wrong
from shared import errors

MODEL_FORMATS = "This version takes ONNX models as one .onnx file; export the model to ONNX first"
DATASET_FORMATS = "A dataset is a .zip of images or videos, or a .csv of labels"
TABLE_BYTES = 512 * 2**20
"""Of a CSV; its check takes no more."""

_ONNX_BEGINS = frozenset((0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA, 0xD2))
"""The tags a protobuf `ModelProto` can begin with; anything else is another format."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class ModelUpload(Kind[ModelForm]):
    """A model as one ONNX file."""

    form = ModelForm
    json_fields = ("input_shape", "preprocessing", "labels")
    file_bytes = 2**30

    def check_texts(self, texts: Mapping[str, str]) -> None:
        """Another framework is told what to do."""
        if texts.get("framework", "onnx") != "onnx":
            raise wrong("framework", MODEL_FORMATS)

    def check_name(self, form: ModelForm, filename: str) -> None:
        """It is called .onnx."""
        if not filename.lower().endswith(".onnx"):
            raise errors.UnsupportedMedia(f"{MODEL_FORMATS} (got {filename[-100:]!r}).")

    def check_head(self, filename: str, head: bytes) -> None:
        """It could be a protobuf."""
        if head[0] not in _ONNX_BEGINS:
            raise errors.UnsupportedMedia(f"The file is no ONNX model. {MODEL_FORMATS}.")


class DatasetUpload(Kind[DatasetForm]):
    """A ZIP of images, or a table of labels for the images of another dataset."""

    form = DatasetForm
    file_bytes = 10 * 2**30
    spare_bytes = 2**30
    """The database and the prepared copies need some, too."""

    def check_fields(self, form: DatasetForm) -> None:
        """The parts make 100."""
        parts = form.parts
        if parts is not None and (sum(parts) != 100 or parts[0] == 0):
            raise wrong("split", "per cent for train/val/test that make 100, such as 80/10/10; train not 0")

    def check_name(self, form: DatasetForm, filename: str) -> None:
        """It is called .zip, or .csv and says where its images are."""
        table = _is_table(filename)
        if not table and not filename.lower().endswith(".zip"):
            raise errors.UnsupportedMedia(f"{DATASET_FORMATS} (got {filename[-100:]!r}).")
        if table and form.archive_id is None:
            raise wrong("archive_id", "required for a CSV: the dataset whose ZIP holds the images it names")
        if not table and form.archive_id is not None:
            raise wrong("archive_id", "goes with a CSV; a ZIP has its own images")

    def check_head(self, filename: str, head: bytes) -> None:
        """A ZIP has its mark, a table is text."""
        if not _is_table(filename):
            if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                raise errors.UnsupportedMedia(f"The file is no ZIP, whatever it is called. {DATASET_FORMATS}.")
        elif head.startswith(b"PK\x03\x04") or (b"\0" in head and not head.startswith(_UTF_16)):
            raise errors.UnsupportedMedia(f"The file is no text, whatever it is called. {DATASET_FORMATS}.")

    def most_bytes(self, filename: str) -> int:
        """A table may not be as large as images."""
        return TABLE_BYTES if _is_table(filename) else self.file_bytes


def _is_table(filename: str) -> bool:
    return filename.lower().endswith(".csv")


MODEL, DATASET = ModelUpload(), DatasetUpload()
