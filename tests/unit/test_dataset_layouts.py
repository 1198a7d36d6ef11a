"""Layouts of uploads: what is recognised, what is warned about, what is refused and in which words."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preparer.layouts import Finder, sorted_classes
from shared import errors
from shared.specs import Box, Task
from tests.dataset_kit import Checked, Content, check_here, of_classes, picture, video, zipped

PETS = of_classes({"cat": 6, "dog": 6})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload.zip"


def refused(path: Path, says: str, task: Task = "classification", **more: Any) -> str:
    with pytest.raises((errors.BadDataset, errors.TooLarge), match=says) as error:
        check_here(path, task, **more)
    return error.value.message


PATHS = st.lists(st.sampled_from(["a", "b", "a.b", "1.jpg", "1", "2.png"]), min_size=1, max_size=3).map("/".join)


@given(st.sets(PATHS, max_size=8), PATHS)
def test_a_file_is_found_by_the_end_of_its_path(names: set[str], wanted: str):
    ends = [name for name in names if f"/{name}".endswith(f"/{wanted}")]
    bare = [(name.rpartition(".")[0], name) for name in names if "." in name.rpartition("/")[2]]
    ends += [name for stem, name in bare if f"/{stem}".endswith(f"/{wanted}") and name not in ends]
    expected = wanted if wanted in names else ends[0] if len(ends) == 1 else None
    assert Finder(sorted(names)).find(wanted) == expected


def test_many_folders_with_the_same_names_are_told_apart_at_once():
    names = [f"films/{film}/{frame}.jpg" for film in range(20_000) for frame in range(2)]
    finder = Finder(names)
    assert max(map(len, (finder._by_end[f"{film}/1"] for film in range(20_000)))) == 1
    assert finder.find("19999/1.jpg") == names[-1]


class TestFolders:
    @pytest.mark.parametrize("prefix", ["", "pets/", "a/b/pets/"])
    def test_a_folder_a_class(self, prefix: str, path: Path):
        found = check_here(zipped(path, of_classes({"cat": 6, "dog": 6}, prefix)))
        assert found.index.classes == ["cat", "dog"]
        assert found.labels[f"{prefix}dog/3.jpg"] == "dog"
        assert (found.summary.layout, found.summary.split_source) == ("folders", "made")
        assert found.summary.num_samples == 12

    def test_folders_within_classes(self, path: Path):
        files = of_classes({"cat/day": 2, "cat/night": 2, "dog/day": 3})
        assert check_here(zipped(path, files)).index.classes == ["cat", "dog"]

    def test_numbers_are_classes_in_their_order(self, path: Path):
        assert check_here(zipped(path, of_classes({"10": 2, "2": 2, "1": 2}))).index.classes == ["1", "2", "10"]
        numbers = ["0", "01", "1", "2", "10", "99", "100"]
        assert sorted_classes([*reversed(numbers), "9" * 5000]) == [*numbers, "9" * 5000]

    @pytest.mark.parametrize("val", ["val", "valid", "Validation"])
    def test_parts_are_honoured(self, val: str, path: Path):
        files = {
            name: picture(seed)
            for seed, name in enumerate(
                f"{part}/{label}/{number}.jpg"
                for part in ("train", val, "test")
                for label in "ab"
                for number in range(3)
            )
        }
        found = check_here(zipped(path, {f"top/{name}": content for name, content in files.items()}))
        assert found.index.classes == ["a", "b"]
        assert found.summary.split_source == "given"
        assert found.splits[f"top/{val}/a/1.jpg"] == "val"
        assert found.summary.splits == {"train": 6, "val": 6, "test": 6}
        again = check_here(path, split=(50, 25, 25))
        assert again.summary.split_source == "made"
        assert again.summary.splits["train"] == pytest.approx(9, abs=1)

    def test_a_missing_part_is_said_once(self, path: Path):
        found = check_here(zipped(path, of_classes({"a": 9, "b": 9}, "train/") | of_classes({"a": 9}, "val/")))
        assert "test: is missing from the parts" in found.said
        assert "b: has 9 images, none of them in val" in found.said

    def test_a_class_of_few_videos_is_told_why_a_part_lacks_it(self, path: Path, tmp_path: Path):
        film = video(tmp_path / "film.avi", seconds=2)
        films = {
            f"{label}/{n}.avi": film for label, count in (("one", 1), ("two", 2), ("five", 5)) for n in range(count)
        }
        found = check_here(zipped(path, films))
        assert (
            "one: has 2 images, none of them in val and test; they come from 1 video, and a video stays" in found.said
        )
        assert "two: has 4 images, none of them in" in found.said
        assert "they come from 2 videos, and a video stays whole: send 3 or more" in found.said
        assert "five: has 10 images, none" not in found.said

    def test_parts_without_training(self, path: Path):
        files = of_classes({"a": 2, "b": 2}, "train/") | of_classes({"a": 2, "b": 2}, "test/")
        for label in "ab":
            files |= {f"train/{label}/{number}.jpg": b"broken" for number in range(2)}
        refused(zipped(path, files), "no image for training")

    def test_images_outside_class_folders(self, path: Path):
        found = check_here(zipped(path, PETS | {"cover.jpg": picture(50)}))
        assert "cover.jpg: lies in no class folder" in found.said
        assert found.summary.num_samples == 12

    def test_no_class_folder_at_all(self, path: Path):
        said = refused(zipped(path, {f"{n}.jpg": picture(n) for n in range(3)}), "No image lies in a class folder")
        assert "Seen: 3 .jpg; folders at the top: none." in said
        assert "a folder a class" in said

    def test_parts_without_classes(self, path: Path):
        files = {f"{part}/{n}.jpg": picture(n) for part in ("train", "val") for n in range(3)}
        refused(zipped(path, files), "'train', 'val', which are no classes")

    def test_images_beside_the_parts_are_told_once(self, path: Path):
        found = check_here(zipped(path, of_classes({"a": 9, "b": 9}, "train/") | of_classes({"a": 1}, "new/")))
        assert "new/a/0.jpg: lies in none of train/, val/ and test/" in found.said
        assert "has no label" not in found.said

    def test_a_table_that_is_not_understood_is_named(self, path: Path):
        files = of_classes({"pics": 5}) | {"labels.csv": "\ufeffDateiname;Klasse\npics/0.jpg;cat\n"}
        said = refused(zipped(path, files), "one class only")
        assert "labels.csv: is not used: a CSV needs a header" in said
        assert "begins 'Dateiname;Klasse'" in said

    @pytest.mark.parametrize("header", ["Dateiname;Klasse", "a,b"])
    def test_a_table_that_names_the_images_of_several_folders_is_not_passed_over(self, header: str, path: Path):
        by = ";" if ";" in header else ","
        rows = [f"pics/{n}.jpg{by}cat" for n in range(5)] + [f"more/{n}.jpg{by}dog" for n in range(5)]
        files = of_classes({"pics": 5, "more": 5}) | {"labels.csv": "\n".join([header, *rows])}
        said = refused(zipped(path, files), "'labels.csv' names the images, but it cannot be told what it says")
        assert f"it begins '{header}'" in said

    @pytest.mark.parametrize(
        ("folders", "prefix", "said"),
        [
            (["owl/", "cat/", "owl/__MACOSX/"], "", ["owl"]),
            (["owl/", "pets/", "pets/owl/", "pets/cat/", "pets/cat/small/"], "pets/", ["pets/owl"]),
            (["train/", "train/owl/", "test/", "test/cat/", "else/"], "train/", ["test/cat", "train/owl"]),
            (["./owl/", "/", "/a/", "../b/"], "", ["owl"]),
        ],
    )
    def test_an_empty_class_folder_is_told(self, folders: list[str], prefix: str, said: list[str], path: Path):
        files = of_classes({"cat": 5, "dog": 5}, prefix) | dict.fromkeys(folders, b"")
        if prefix == "train/":
            files |= of_classes({"cat": 2, "dog": 2}, "val/")
        found = check_here(zipped(path, files))
        assert [one.where for one in found.summary.warnings if "is an empty folder" in one.what] == said

    def test_one_class(self, path: Path):
        refused(zipped(path, of_classes({"cat": 5})), "one class only")

    def test_no_images(self, path: Path):
        said = refused(zipped(path, {"notes.txt": "x", "a/b.xml": "y"}), "No image and no video")
        assert "1 .txt, 1 .xml; folders at the top: a/" in said
        refused(zipped(path, {}), "holds no file that can be used")

    def test_mostly_broken(self, path: Path):
        files = of_classes({"a": 3, "b": 3}) | {f"a/x{number}.jpg": b"broken" for number in range(7)}
        refused(zipped(path, files), "7 of 13 images cannot be used.*a/x0.jpg")

    def test_labels_of_the_other_task(self, path: Path):
        files: dict[str, Content] = {f"images/train/{n}.jpg": picture(n) for n in range(3)}
        files |= {f"images/val/{n}.jpg": picture(n + 9) for n in range(3)}
        files |= {f"labels/{part}/{n}.txt": "0 .5 .5 .2 .2" for part in ("train", "val") for n in range(3)}
        refused(zipped(path, files), "YOLO labels, which is for detection, but its task_type is classification")
        refused(zipped(path, files), "Upload it with task_type detection")


class TestTables:
    def labelled(self, path: Path, text: str | bytes, **more: Any) -> Checked:
        images = {f"img/{number}.jpg": picture(number) for number in range(6)}
        return check_here(zipped(path, images | {"labels.csv": text}), **more)

    @pytest.mark.parametrize(
        "header",
        [
            "file,label",
            "filename,class",
            "Path,Class_Name",
            "image,label",
            "FILE NAME;LABEL",
            "image\tcategory",
            "id,class",
        ],
    )
    def test_headers(self, header: str, path: Path):
        by = next(letter for letter in ",;\t" if letter in header)
        rows = [f"img/{number}.jpg{by}{'even' if number % 2 == 0 else 'odd'}" for number in range(6)]
        found = self.labelled(path, "\n".join([header, *rows]))
        assert found.index.classes == ["even", "odd"]
        assert found.labels["img/3.jpg"] == "odd"
        assert found.summary.layout == "table"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_encodings(self, encoding: str, end: str, path: Path):
        rows = [f'"img/{number}.jpg","{"Äpfel, rot" if number % 2 else "Käse"}"' for number in range(6)]
        found = self.labelled(path, end.join(["file,label", *rows, ""]).encode(encoding))
        assert found.index.classes == ["Käse", "Äpfel, rot"]

    @pytest.mark.parametrize("wanted", ["img/{}.jpg", "./img/{}.jpg", "{}.jpg", "{}", "img\\{}.jpg"])
    def test_ways_to_name_a_file(self, wanted: str, path: Path):
        found = self.labelled(path, "\n".join(["file,label", *(f"{wanted.format(n)},{n % 2}" for n in range(6))]))
        assert found.summary.num_samples == 6

    def test_what_is_wrong_is_said_with_its_row(self, path: Path):
        text = (
            "file,label,split\n0.jpg,a,train\n1.jpg,b,train\n2.jpg,a,test\n3.jpg\n4.jpg,,\n9.jpg,a,val\n5.jpg,a,later\n"
        )
        found = self.labelled(path, text)
        assert found.summary.split_source == "given"
        assert found.splits == {"img/0.jpg": "train", "img/1.jpg": "train", "img/2.jpg": "test"}
        for line in (
            "labels.csv, row 5: has too few columns",
            "labels.csv, row 6: has no label",
            "9.jpg: is named in 'labels.csv', but fits no file of the ZIP",
            "labels.csv, row 8: has the part 'later'",
            "img/5.jpg: has no label",
        ):
            assert line in found.said

    def test_two_labels_for_one_image(self, path: Path):
        rows = ["0.jpg,a", "0.jpg,b", "1.jpg,a", "2.jpg,b", "3.jpg,a", "3.jpg,a"]
        found = self.labelled(path, "\n".join(["file,label", *rows]))
        assert "img/0.jpg: is labelled 'a' and 'b'; left out" in found.said
        assert sorted(found.labels) == ["img/1.jpg", "img/2.jpg", "img/3.jpg"]

    def test_a_table_a_part(self, path: Path):
        images = {f"{number}.jpg": picture(number) for number in range(6)}
        tables = {
            "train.csv": "file,label\n0.jpg,a\n1.jpg,b\n",
            "val_labels.csv": "file,label\n2.jpg,a\n3.jpg,b\n",
            "test.csv": "file,label\n4.jpg,a\n5.jpg,b\n",
        }
        assert check_here(zipped(path, images | tables)).summary.splits == {"train": 2, "val": 2, "test": 2}

    def test_alone_with_the_images_of_another_upload(self, path: Path, tmp_path: Path):
        images = zipped(tmp_path / "images.zip", {f"{number}.jpg": picture(number) for number in range(4)})
        table = tmp_path / "labels"
        table.write_text("file,label\n0.jpg,a\n1.jpg,b\n2.jpg,a\n3.jpg,b\n")
        assert check_here(table, images_path=str(images)).index.classes == ["a", "b"]
        refused(table, "needs archive_id")
        table.write_text("who,what\n0.jpg,a\n")
        refused(table, "needs a header.*begins 'who,what'", images_path=str(images))
        table.write_bytes(b"\0\1\2" * 100)
        refused(table, "neither a ZIP nor a CSV")

    def test_too_many_rows(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("preparer.layouts.MOST_LABELS", 3)
        with pytest.raises(errors.TooLarge, match=r"more than 3 labels up to 'l.csv'"):
            check_here(zipped(path, PETS | {"l.csv": "file,label\n" + "cat/1.jpg,a\n" * 4}))

    def test_names_no_image(self, path: Path):
        said = refused(zipped(path, PETS | {"l.csv": "file,label\nx.jpg,a\n"}), "No row of the table names a file")
        assert "x.jpg: is named in 'l.csv'" in said

    @pytest.mark.parametrize("label", ["x" * 201, "a\u202eb", "bell\a"])
    def test_names_that_no_class_may_have(self, label: str, path: Path):
        table = f"file,label\ncat/0.jpg,{label}\ndog/0.jpg,b\n"
        refused(zipped(path, PETS | {"l.csv": table}), "cannot be the name of a class")

    def test_too_many_classes(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("preparer.dataset.MOST_CLASSES", 1)
        refused(zipped(path, PETS), "There are 2 classes; at most 1")

    def test_a_name_that_fits_several_files(self, path: Path):
        found = check_here(zipped(path, PETS | {"l.csv": "file,label\n0.jpg,a\ncat/1.jpg,a\ndog/1.jpg,b\n"}))
        assert "0.jpg: is named in 'l.csv', but fits no file of the ZIP, or several" in found.said
        assert found.summary.num_samples == 2

    def test_another_table_is_no_matter(self, path: Path):
        found = check_here(zipped(path, PETS | {"prices.csv": "date,price\n1,2\n"}))
        assert found.summary.layout == "folders"
        assert "prices.csv: is not used" in found.said

    def test_boxes(self, path: Path):
        rows = ["0.jpg,cat,1,2,9,8", "0.jpg,dog,-5,0,24,99", "1.jpg,cat,4,4,4,9", "2.jpg,,,,,", "3.jpg,dog,a,1,2,3"]
        found = self.labelled(path, "\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]), task="detection")
        first, second, third = found.index.samples
        assert first.boxes == (
            Box(class_id=0, x1=1, y1=2, x2=9, y2=8),
            Box(class_id=1, x1=0, y1=0, x2=24, y2=16),
        )
        assert (second.boxes, third.boxes) == ((), ())
        assert "img/1.jpg: has a box outside the image or without an area" in found.said
        assert "labels.csv, row 6: has the box 'a', which is no number" in found.said

    def test_a_table_without_boxes_for_detection(self, path: Path):
        refused(zipped(path, PETS | {"l.csv": "file,label\n0.jpg,a\n"}), "table without boxes", "detection")

    def test_a_table_of_boxes_for_classification(self, path: Path):
        table = "file,label,x1,y1,x2,y2\ncat/0.jpg,a,1,1,2,2\n"
        refused(zipped(path, PETS | {"l.csv": table}), "table of boxes.*task_type is classification")


class TestYolo:
    def upload(self, path: Path, **more: Content) -> Checked:
        files: dict[str, Content] = {
            f"images/{part}/{n}.jpg": picture(n, 40, 20) for part in ("train", "val") for n in range(3)
        }
        files |= {f"labels/{part}/{n}.txt": f"{n % 2} 0.5 0.5 0.5 0.5\n" for part in ("train", "val") for n in range(3)}
        return check_here(zipped(path, files | more), "detection")

    def test_boxes_in_pixels_and_parts(self, path: Path):
        found = self.upload(path, **{"data.yaml": "names: [cat, dog]\nnc: 2\n"})
        assert found.summary.layout == "yolo"
        assert found.summary.splits == {"train": 3, "val": 3, "test": 0}
        assert found.index.classes == ["cat", "dog"]
        assert found.index.samples[1].boxes == (Box(class_id=1, x1=10, y1=5, x2=30, y2=15),)
        assert [count.boxes for count in found.summary.classes] == [4, 2]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("data.yaml", "names:\n  0: cat\n  1: dog\n"),
            ("classes.txt", "cat\ndog\n"),
            ("labels/classes.txt", "cat\r\ndog\r\n"),
            ("obj.names", "cat\ndog"),
        ],
    )
    def test_names(self, name: str, text: str, path: Path):
        assert self.upload(path, **{name: text}).index.classes == ["cat", "dog"]

    def test_no_names(self, path: Path):
        found = self.upload(path)
        assert found.index.classes == ["0", "1"]
        assert "they are called by their numbers" in found.said

    def test_a_class_without_a_name_costs_its_line(self, path: Path):
        odd = {"images/train/9.jpg": picture(9, 40, 20), "labels/train/9.txt": "0 .5 .5 .5 .5\n9 .5 .5 .5 .5\n"}
        found = self.upload(path, **{"classes.txt": "cat\ndog"}, **odd)
        assert "labels/train/9.txt, line 2: has class 9, but there are names for 2 classes only" in found.said
        assert [count.boxes for count in found.summary.classes] == [5, 2]

    @pytest.mark.parametrize("names", [{}, {"classes.txt": "cat"}])
    def test_mostly_classes_without_names(self, names: dict[str, Content], path: Path):
        lines = "\n".join(f"{10**6 + n} .5 .5 .5 .5" for n in range(7))
        odd = {"images/train/9.jpg": picture(9, 40, 20), "labels/train/9.txt": lines}
        with pytest.raises(errors.BadDataset, match=r"of 13 boxes have a class without a name. .*9.txt, line 1: has"):
            self.upload(path, **names, **odd)

    def test_poses_are_boxes_with_points_behind_them(self, path: Path):
        line = "0 .5 .5 .2 .4 " + " ".join(["0.9 0.9 2"] * 4)
        files = {"images/train/9.jpg": picture(9, 100, 50), "labels/train/9.txt": line}
        found = self.upload(path, **{"data.yaml": "names: [cat, dog]\nkpt_shape: [4, 3]"}, **files)
        (sample,) = [one for one in found.index.samples if one.member.endswith("train/9.jpg")]
        assert sample.boxes == (Box(class_id=0, x1=40, y1=15, x2=60, y2=35),)

    @pytest.mark.parametrize("shape", ["4", "[4]", "[4, x]", "[-4, 3]", "{}", "[1000000, 1000000]", "[true, 2]"])
    def test_a_shape_of_points_that_is_none(self, shape: str, path: Path):
        found = self.upload(path, **{"data.yaml": f"names: [cat, dog]\nkpt_shape: {shape}"})
        assert [count.boxes for count in found.summary.classes] == [4, 2]

    def test_too_many_boxes(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("preparer.layouts.MOST_LABELS", 5)
        with pytest.raises(errors.TooLarge, match=r"more than 5 labels up to 'labels/val/2.txt'"):
            self.upload(path)

    @pytest.mark.parametrize(
        "text",
        [
            "!!python/object/apply:os.system ['touch /tmp/x']",
            "[" * 5000,
            "names: {",
            "a: &a [x]\nnames: *a\n\tb",
            "names: [!!int '']",
            "names: [!!bool neither]",
            "names: [!!timestamp never]",
            pytest.param(f"names: [0x{'f' * 5000}]", id="a number too long to be written"),
        ],
    )
    def test_yaml_that_is_none(self, text: str, path: Path):
        found = self.upload(path, **{"data.yaml": text})
        assert "data.yaml: cannot be read" in found.said

    def test_one_name_for_two_classes(self, path: Path):
        assert "cat: is a class, and the same name is another" in self.upload(path, **{"classes.txt": "cat\ncat"}).said

    def test_lines_that_are_none(self, path: Path):
        lines = "0 .5 .5 .2\nx 1 1 1 1\n0 .5 .5 -1 .2\n0 5 5 2 2\n0 nan .5 .1 .1\n0 .5 .5 .2 .2\n0 .1 .1 .9 .1 .5 .8\n"
        found = self.upload(path, **{"images/train/9.jpg": picture(9, 100, 50), "labels/train/9.txt": lines})
        for line in range(1, 6):
            assert f"labels/train/9.txt, line {line}: " in found.said
        (sample,) = [one for one in found.index.samples if one.member.endswith("train/9.jpg")]
        assert sample.boxes == (
            Box(class_id=0, x1=40, y1=20, x2=60, y2=30),
            Box(class_id=0, x1=10, y1=5, x2=90, y2=40),
        )

    def test_beside_the_image_and_without_objects(self, path: Path):
        files: dict[str, Content] = {f"{n}.jpg": picture(n) for n in range(4)}
        files |= {"0.txt": "0 .5 .5 .2 .2", "1.txt": "", "classes.txt": "cat"}
        found = check_here(zipped(path, files), "detection")
        assert [len(sample.boxes) for sample in found.index.samples] == [1, 0, 0, 0]
        assert "2.jpg: has no label file, so it counts as an image without objects" in found.said


class TestCoco:
    def test_too_many_boxes(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("preparer.layouts.MOST_LABELS", 20)
        check_here(zipped(path, self.images() | {"a.json": json.dumps(self.document())}), "detection")
        files = self.images() | {name: json.dumps(self.document()) for name in ("a.json", "b.json")}
        with pytest.raises(errors.TooLarge, match=r"more than 20 labels up to 'b.json'"):
            check_here(zipped(path, files), "detection")

    def document(self, **changes: Any) -> dict[str, Any]:
        return {
            "info": {"ignored": True},
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": 24, "height": 16} for n in range(4)],
            "categories": [{"id": 3, "name": "cat", "supercategory": "pet"}, {"id": 7, "name": "dog"}],
            "annotations": [
                {"id": 1, "image_id": 0, "category_id": 3, "bbox": [1, 2, 10, 5], "iscrowd": 0, "segmentation": [[1]]},
                {"id": 2, "image_id": 0, "category_id": 7, "bbox": [20, 10, 50, 50]},
                {"id": 3, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5], "iscrowd": 1},
                {"id": 4, "image_id": 2, "category_id": 3, "bbox": [0, 0, 0, 5]},
                {"id": 5, "image_id": 99, "category_id": 3, "bbox": [0, 0, 4, 5]},
            ],
        } | changes

    def images(self, prefix: str = "", count: int = 4) -> dict[str, Content]:
        return {f"{prefix}{number}.jpg": picture(number) for number in range(count)}

    def test_boxes_crowds_and_what_is_wrong(self, path: Path):
        files = self.images("images/") | {"annotations.json": json.dumps(self.document())}
        found = check_here(zipped(path, files), "detection")
        assert (found.summary.layout, found.index.classes) == ("coco", ["cat", "dog"])
        assert found.index.samples[0].boxes == (
            Box(class_id=0, x1=1, y1=2, x2=11, y2=7),
            Box(class_id=1, x1=20, y1=10, x2=24, y2=16),
        )
        assert [len(sample.boxes) for sample in found.index.samples] == [2, 0, 0, 0]
        assert "annotation 2: marks a crowd" in found.said
        assert "annotation 3: has no box" in found.said
        assert "annotation 4: names an image or a category" in found.said

    @pytest.mark.parametrize("box", [["1", 2, 3, 4], {"x": 1}, "1,2,3,4", [1, 2, None, 4], []])
    def test_a_box_that_is_none_costs_its_annotation_only(self, box: object, path: Path):
        document = self.document()
        document["annotations"].append({"id": 9, "image_id": 1, "category_id": 7, "bbox": box})
        found = check_here(zipped(path, self.images() | {"a.json": json.dumps(document)}), "detection")
        assert f"annotation {len(document['annotations']) - 1}: has no box" in found.said

    @pytest.mark.parametrize("folder", ["train2017/", "images/"])
    def test_for_classification_the_task_is_named(self, folder: str, path: Path):
        files = self.images(folder) | self.images("val2017/") | {"a.json": json.dumps(self.document())}
        refused(zipped(path, files), "holds COCO annotations, which is for detection")

    def test_a_file_a_part(self, path: Path):
        files = self.images("train2017/") | self.images("val2017/")
        for part in ("train", "val"):
            files[f"annotations/instances_{part}2017.json"] = json.dumps(self.document())
        found = check_here(zipped(path, files), "detection")
        assert found.summary.splits == {"train": 4, "val": 4, "test": 0}
        assert found.splits["val2017/2.jpg"] == "val"

    def test_files_beside_their_images(self, path: Path):
        files = self.images("train/") | self.images("valid/")
        files |= {f"{part}/_annotations.coco.json": json.dumps(self.document()) for part in ("train", "valid")}
        assert check_here(zipped(path, files), "detection").summary.splits == {"train": 4, "val": 4, "test": 0}

    def test_boxes_drawn_at_another_size(self, path: Path):
        images = [{"id": n, "file_name": f"{n}.jpg", "width": 16, "height": 24} for n in range(1)]
        images += [{"id": n, "file_name": f"{n}.jpg", "width": 24, "height": 16} for n in range(1, 4)]
        boxes = [{"image_id": n, "category_id": 3, "bbox": [1, 1, 5, 5]} for n in range(4)]
        document = self.document(images=images, annotations=boxes)
        found = check_here(zipped(path, self.images() | {"a.json": json.dumps(document)}), "detection")
        assert "0.jpg: has 24 x 16 pixels, but its boxes were drawn at (16, 24)" in found.said
        assert found.summary.num_samples == 3

    @pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"images": [{"id": 1}]}', "\xff"])
    def test_json_that_is_none(self, text: str, path: Path):
        said = refused(zipped(path, self.images() | {"a.json": text}), "There are no boxes in the upload", "detection")
        assert "YOLO text files" in said
        assert "a.json: is no COCO annotation file (" in said

    def test_names_no_image(self, path: Path):
        files = {"other.jpg": picture(0), "a.json": json.dumps(self.document())}
        refused(zipped(path, files), "The annotations name no image of the ZIP. 0.jpg: is named", "detection")

    def test_one_id_for_two_images(self, path: Path):
        images = [{"id": n // 2, "file_name": f"{n}.jpg"} for n in range(4)]
        files = self.images() | {"a.json": json.dumps(self.document(images=images))}
        refused(zipped(path, files), "'a.json' gives the id 0 to '0.jpg' and to '1.jpg'", "detection")

    def test_categories_that_contradict(self, path: Path):
        other = self.document(categories=[{"id": 3, "name": "horse"}, {"id": 7, "name": "dog"}])
        files = self.images() | {"a.json": json.dumps(self.document()), "b.json": json.dumps(other)}
        refused(zipped(path, files), "Category 3 is called 'horse' in 'b.json', and 'cat'", "detection")

    def test_no_box_at_all(self, path: Path):
        files = self.images() | {"a.json": json.dumps(self.document(annotations=[]))}
        refused(zipped(path, files), "No image has a box", "detection")


class TestVideos:
    def test_a_clip_a_label(self, path: Path, tmp_path: Path):
        films = {f"{label}/{n}.avi": video(tmp_path / "a.avi", seconds=3) for label in ("run", "sit") for n in range(3)}
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            found = check_here(zipped(path, films, method), frames_per_second=2.0)
            assert found.summary.num_samples == 36
            times = [sample.time_s for sample in found.index.samples if sample.member == "run/0.avi"]
            assert times == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
            for film in films:
                assert len({sample.split for sample in found.index.samples if sample.member == film}) == 1

    def test_labels_for_frames(self, path: Path, tmp_path: Path):
        table = "file,time_s,label\na.avi,0.5,low\na.avi,2.5,high\nb.avi,0.2,low\na.avi,77,high\n"
        film = video(tmp_path / "a.avi", seconds=3)
        found = check_here(zipped(path, {"a.avi": film, "b.avi": film, "labels.csv": table}))
        got = [(one.member, one.time_s, found.index.classes[one.class_id or 0]) for one in found.index.samples]
        assert got == [("a.avi", 0.5, "low"), ("a.avi", 2.5, "high"), ("b.avi", 0.2, "low")]
        assert "a.avi: ends before 1 of its labelled frames" in found.said

    def test_boxes_in_frames(self, path: Path, tmp_path: Path):
        table = (
            "file,frame,label,xmin,ymin,xmax,ymax\na.avi,3,cat,1,1,9,9\na.avi,3,cat,10,10,20,20\na.avi,7,cat,2,2,9,9\n"
        )
        found = check_here(zipped(path, {"a.avi": video(tmp_path / "a.avi"), "l.csv": table}), "detection")
        assert [(one.time_s, len(one.boxes)) for one in found.index.samples] == [(0.3, 2), (0.7, 1)]

    def test_long_ones_are_cut(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("preparer.samples.MOST_FRAMES", 4)
        film = video(tmp_path / "a.avi")
        found = check_here(zipped(path, {"a/1.avi": film, "b/1.avi": film}), frames_per_second=10.0)
        assert found.summary.num_samples == 8
        assert "a/1.avi: is used up to its 4th frame" in found.said

    def test_broken_ones_are_warnings(self, path: Path, tmp_path: Path):
        good = video(tmp_path / "a.avi")
        found = check_here(zipped(path, {"a/1.avi": good, "b/1.mp4": good, "b/2.avi": b"x" * 99, "b/3.jpg": good}))
        assert found.summary.num_samples == 6, "what it is decides, not what it is called"
        assert "b/2.avi: This is no MP4" in found.said
        assert "b/3.jpg: This is not an image we know" in found.said
