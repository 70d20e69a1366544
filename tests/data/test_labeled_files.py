"""A folder of images with a file of labels, in every form of it."""

import pytest
from PIL import Image

from lightningdit_jax.data.images import ImageFolder
from lightningdit_jax.data.labeled_files import LabeledFiles
from lightningdit_jax.data.labels import MOST_CLASSES
from lightningdit_jax.data.sources import open_images


def opened(folder, labels=""):
    return open_images(
        "folder", path=str(folder), split="", size=8, tfds_name="", labels=str(labels)
    )


@pytest.fixture
def folder(tmp_path):
    """a.png, b c.jpg and sub/d.png, gray 10, 20 and 30."""
    for number, name in enumerate(("a.png", "b c.jpg", "sub/d.png"), 1):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number * 10,) * 3).save(path, "PNG")
    return tmp_path / "images"


FORMS = {
    "commas": "sub/d.png,owl\na.png,cat\n\nb c.jpg,owl\n",
    "quotes": '\ufeff"a.png","cat"\r\n"b c.jpg","owl"\r\n./sub/d.png, owl\r\n',
    "tabs": "a.png\tcat\nb c.jpg\towl\nsub/d.png\towl",
    "blanks": "a.png cat\nb c.jpg owl\nsub/d.png   owl\n",
    "columns": "split,Label,file_name\nx,cat,a.png\nx,owl,b c.jpg\ny,owl,sub/d.png\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(folder, tmp_path, form):
    path = tmp_path / "list"
    path.write_text(FORMS[form], encoding="utf-8", newline="")
    images = opened(folder, path)
    assert isinstance(images, LabeledFiles)
    assert [images.image(i).getpixel((0, 0))[0] for i in range(3)] == [10, 20, 30]
    assert images.labels.tolist() == [0, 1, 1] and list(images.class_names) == ["cat", "owl"]
    before = images.fingerprint()
    path.write_text(FORMS[form].replace("cat", "owl", 1), encoding="utf-8", newline="")
    assert opened(folder, path).fingerprint() != before


def test_numbers_stay_what_they_are(folder, tmp_path):
    (tmp_path / "list").write_text("a.png,10\nb c.jpg,2\nsub/d.png,010\n")
    images = opened(folder, tmp_path / "list")
    assert images.labels.tolist() == [10, 2, 10] and images.num_classes == 11


def test_a_list_in_a_folder_without_folders_is_found(folder):
    """With folders in it the folders are the classes, and the list is named as a file not read."""
    (folder / "labels.csv").write_text("a.png,cat\nb c.jpg,dog\n")
    with pytest.raises(ValueError, match=r"images lie beside the folders of 1 class \("):
        opened(folder)
    (folder / "sub" / "d.png").unlink()
    (folder / "sub").rmdir()
    assert list(opened(folder).class_names) == ["cat", "dog"]
    (folder / "labels.txt").write_text("a.png cat\n")
    with pytest.raises(ValueError, match=r"labels\.csv and labels\.txt; remove one"):
        opened(folder)
    (folder / "labels.csv").unlink()
    with pytest.raises(ValueError, match=r"txt has no label of 1 image in .*: b c\.jpg"):
        opened(folder)
    (folder / "labels.txt").unlink()
    assert isinstance(opened(folder), ImageFolder)


def test_all_images_as_one_class(folder):
    images = opened(folder, "none")
    assert len(images) == 3 and images.labels.tolist() == [0, 0, 0] and images.num_classes == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty; expected a line 'file,label'"),
        (
            "a.png,cat\nx.png,cat\n../y.png,cat\nb c.jpg,cat\nsub/d.png,cat",
            r"names 2 images not in .*: \.\./y\.png, x\.png",
        ),
        ("a.png,cat", r"has no label of 2 images in .*: b c\.jpg, sub/d\.png; add them"),
        ("a.png,cat\na.png,dog", r"line 2: a second label for a\.png"),
        ("a.png,cat\nb c.jpg,", r"line 2: b c\.jpg has none; expected a label"),
        ("a.png,cat,dog", r"line 1 has 3 parts, .*; expected 2"),
        ("a.png,cat\nb c.jpg", r"line 2 has 1 part,"),
        ("name,label,x\na.png,cat", r"line 2 has 2 parts, .*; expected 3"),
        ("word", "line 1 has 1 part"),
        ('a.png,"cat', "unexpected end"),
        ("a.png,cat\nb c.jpg,7\nsub/d.png,7", r"numbers and names: 'cat' \(a\.png\) and 7 \(b c"),
        (f"a.png,1\nb c.jpg,2\nsub/d.png,{MOST_CLASSES}", r"1000000 \(sub/d\.png\) is no class"),
        (
            f"a.png,1\nb c.jpg,2\nsub/d.png,{'9' * 30}",
            r"label 9{20}\.\.\. \(sub/d\.png\) is no class",
        ),
    ],
)
def test_lists_that_do_not_do_are_named(folder, tmp_path, text, told):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=told) as error:
        opened(folder, tmp_path / "list")
    assert f"{tmp_path}/list" in str(error.value) and "\n" not in str(error.value)


def test_absent_lists_and_those_of_other_sources(folder):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such file of labels"):
        opened(folder, "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="no such folder of images"):
        opened(folder / "absent", "none")
    for source in ("parquet", "webdataset"):
        with pytest.raises(ValueError, match=r"labels is 'x\.csv', but .* labels beside them"):
            open_images(source, path=".", split="", size=8, tfds_name="", labels="x.csv")


def test_one_picture_is_a_set_of_images(folder):
    images = opened(folder / "b c.jpg")
    assert len(images) == 1 and list(images.class_names) == ["b c"]
    assert images.image(0).getpixel((0, 0)) == (20, 20, 20)
