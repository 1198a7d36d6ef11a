"""The uploads there are: which fields, which file, how large."""

from __future__ import annotations

import msgspec

from gateway.schemas import DatasetForm, ModelForm
from gateway.uploads import Kind, wrong
from shared import config, errors, nets
from shared.nets import kinds
from shared.specs import Framework

FRAMEWORKS: dict[Framework, str] = {"onnx": "ONNX", "pytorch": "PyTorch", "tensorflow": "TensorFlow or Keras"}
DATASET_FORMATS = "A dataset is a .zip of images or videos, or a .csv of labels"
TABLE_BYTES = 512 * 2**20
"""Of a CSV; its check takes no more."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class ModelUpload(Kind[ModelForm]):
    """A model as one file of PyTorch, TensorFlow or ONNX, whatever it is called."""

    form = ModelForm
    json_fields = ("input_shape", "preprocessing", "labels")
    file_bytes = 2**30

    def check_name(self, form: ModelForm, filename: str) -> None:
        """Names are not believed."""

    def check_head(self, form: ModelForm, filename: str, head: bytes) -> ModelForm:
        """It begins like a file of a framework that is installed here; the fields are of that one too."""
        try:
            found = kinds.framework_of(head)
        except errors.BadModel as error:
            raise errors.UnsupportedMedia(error.message) from error
        words = FRAMEWORKS[found]
        if form.framework not in (None, found):
            raise wrong("framework", f"by its content the file is of {words}; leave this field out")
        if form.architecture is not None and found != "pytorch":
            raise wrong("architecture", f"it names the network of PyTorch weights; a file of {words} holds its own")
        lacks = {"onnx": None, "pytorch": nets.missing(), "tensorflow": _no_tensorflow()}[found]
        if lacks:
            raise errors.UnsupportedMedia(lacks)
        return msgspec.structs.replace(form, framework=found)


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

    def check_head(self, form: DatasetForm, filename: str, head: bytes) -> DatasetForm:
        """A ZIP has its mark, a table is text."""
        if not _is_table(filename):
            if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                raise errors.UnsupportedMedia(f"The file is no ZIP, whatever it is called. {DATASET_FORMATS}.")
        elif head.startswith(b"PK\x03\x04") or (b"\0" in head and not head.startswith(_UTF_16)):
            raise errors.UnsupportedMedia(f"The file is no text, whatever it is called. {DATASET_FORMATS}.")
        return form

    def most_bytes(self, filename: str) -> int:
        """A table may not be as large as images."""
        return TABLE_BYTES if _is_table(filename) else self.file_bytes


def _no_tensorflow() -> str | None:
    return config.NO_TENSORFLOW if config.tensorflow_python() is None else None


def _is_table(filename: str) -> bool:
    return filename.lower().endswith(".csv")


MODEL, DATASET = ModelUpload(), DatasetUpload()
