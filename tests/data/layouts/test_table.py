"""Tables of labels, as people and programs write them."""

import unicodedata

import numpy as np
import pytest

from tests.data.layouts.photos import HOSTILE, write_photos
from vtl.data.layouts import table
from vtl.data.split import OneHot
from vtl.errors import UserError


@pytest.fixture
def photos(tmp_path):
    """A folder with 1.jpg to 4.jpg."""
    write_photos(tmp_path / "photos", [f"{n}.jpg" for n in range(1, 5)])
    return tmp_path / "photos"


def read(root, content, encoding="utf-8", **options):
    path = root.parent / "labels.csv"
    path.write_bytes(content.encode(encoding))
    return table.read(path, root, **options)


def error_of(root, content, **options):
    with pytest.raises(UserError) as caught:
        read(root, content, **options)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert all(len(line) <= 320 for line in message.splitlines())
    return message


def test_a_column_a_class(photos):
    found = read(photos, "photo,cat,dog\n1.jpg,1,0\n2.jpg,no,YES\n3.jpg,?,true\n4.jpg,False,\n")
    assert found.names == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert found.classes == ("cat", "dog")
    np.testing.assert_array_equal(found.labels, [[1, 0], [0, 1], [0, 1], [0, 0]])
    np.testing.assert_array_equal(found.label_mask, [[1, 1], [1, 1], [0, 1], [1, 0]])
    assert not found.difficult.any()
    assert found.splits is None
    assert found.groups is None


@pytest.mark.parametrize("separator", [";", "|", ","])
def test_a_column_of_labels(photos, separator):
    cell = f'"cat{separator} dog"'
    found = read(photos, f"file;labels\n1.jpg;{cell}\n2.jpg;dog\n3.jpg;\n4.jpg;?\n")
    assert found.classes == ("cat", "dog")
    np.testing.assert_array_equal(found.labels, [[1, 1], [0, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(found.label_mask, [[1, 1], [1, 1], [1, 1], [0, 0]])
    assert "1 photos have no label" in found.notes[0]


def test_one_label_each_is_a_number_a_photo(photos):
    found = read(photos, "image,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n4.jpg,emu\n")
    assert isinstance(found.labels, OneHot)
    np.testing.assert_array_equal(found.labels.numbers, [0, 1, 0, 2])
    assert found.label_mask.strides == (0, 0)


def test_labels_with_commas_in_them(photos):
    content = 'photo,label\n1.jpg,"tench, Tinca"\n2.jpg,"gar; fish"\n'
    message = error_of(photos, content)
    assert "labels hold both ';' and ','" in message
    assert "--config.data.separator" in message
    assert read(photos, content, separator="none").classes == ("gar; fish", "tench, Tinca")


@pytest.mark.parametrize(
    "content",
    [
        "photo\tcat\tdog\n1.jpg\t1\t0\n2.jpg\t0\t1\n",
        "photo;cat;dog\n1.jpg;1;0\n2.jpg;0;1\n",
        "\ufeffphoto,cat,dog\n1.jpg,1,0\n2.jpg,0,1\n",
        "photo,cat,dog\r\n1.jpg,1,0\r\n2.jpg,0,1\r\n",
        ",photo,cat,dog\n0,1.jpg,1,0\n1,2.jpg,0,1\n",
        "Unnamed: 0,photo,cat,dog\n0,1.jpg,1.0,0.0\n1,2.jpg,0.0,1.0\n",
        "photo,cat,dog,,\n1.jpg,1,0,,\n2.jpg,0,1,,\n",
        "photo,cat,dog\n1.jpg,1,0,\n2.jpg,0,1,,,\n",
        '"photo","cat","dog"\n"1.jpg","1","0"\n"2.jpg","0","1"\n',
        "cat,dog,which one\n1,0,1.jpg\n0,1,2.jpg\n",
        "photo,cat,dog\n\n1.jpg,1,0\n,,\n2.jpg,0,1\n\n",
        "photo,cat,dog\n./1.jpg,1,0\nx\\..\\2.jpg,0,1\n",
        "photo,cat,dog\n1,1,0\n2,0,1\n",
        "PHOTO , cat , dog\n 1.jpg , 1 , 0 \n 2.jpg , 0 , 1 \n",
    ],
    ids=[
        *("tabs", "semicolons", "mark", "windows", "index", "pandas", "empty columns"),
        *("trailing commas", "quoted", "found by content", "blank rows", "paths", "no endings"),
        "blanks",
    ],
)
def test_what_programs_write(photos, content):
    found = read(photos, content)
    assert found.names == ["1.jpg", "2.jpg"]
    assert found.classes == ("cat", "dog")
    np.testing.assert_array_equal(found.labels, [[1, 0], [0, 1]])
    assert np.all(found.label_mask)


def test_utf_16(photos):
    found = read(photos, "photo\tlabel\n1.jpg\tKätzchen\n2.jpg\tHund\n", encoding="utf-16")
    assert found.classes == ("Hund", "Kätzchen")


def test_vocs_flags_where_asked_for(photos):
    content = "photo,cat,dog\n1.jpg,1,-1\n2.jpg,0,?\n"
    assert "--config.data.flags=voc" in error_of(photos, content)
    found = read(photos, content, flags="voc")
    np.testing.assert_array_equal(found.labels, [[1, 0], [0, 0]])
    np.testing.assert_array_equal(found.difficult, [[0, 0], [1, 0]])
    np.testing.assert_array_equal(found.label_mask, [[1, 1], [1, 0]])


def test_split_and_group(photos):
    found = read(
        photos,
        "photo,Split,group,label\n1.jpg,Training,a,x\n2.jpg,valid,b,y\n3.jpg,TEST,,x\n"
        "4.jpg,extra,a,y\n",
    )
    assert found.splits == ["train", "val", "test", "extra"]
    assert found.groups == ["a", "b", "", "a"]
    assert found.classes == ("x", "y")
    assert "line 2: the split is blank" in error_of(photos, "photo,split,label\n1.jpg,,x\n")


def test_hostile_names(tmp_path):
    root = tmp_path / "my photos"
    names = write_photos(root, [f"in a/{name}" for name in HOSTILE])
    quoted = [name.replace('"', '""') for name in names]
    rows = "".join(f'"{name}",{n % 2}\n' for n, name in enumerate(quoted))
    found = read(root, f"photo,odd\n{rows}")
    assert found.names == names
    np.testing.assert_array_equal(np.asarray(found.labels)[:, 0], np.arange(len(names)) % 2)
    # As another system stores the accents.
    other = [unicodedata.normalize("NFD" if "Ä" in n else "NFC", n) for n in quoted]
    rows = "".join(f'"{name}",{n % 2}\n' for n, name in enumerate(other))
    assert read(root, f"photo,odd\n{rows}").names == names


def test_photos_in_folders_are_found_by_name(tmp_path):
    root = tmp_path / "photos"
    write_photos(root, ["cat/1.jpg", "dog/2.jpg", "dog/deep/3.jpg", "cat/4.jpg", "dog/4.png"])
    assert read(root, "photo,label\n1.jpg,a\n2,b\n3.jpg,a\n").names == [
        *("cat/1.jpg", "dog/2.jpg", "dog/deep/3.jpg")
    ]
    assert read(root, f"photo,label\n{root}/cat/1.jpg,a\n").names == ["cat/1.jpg"]
    message = error_of(root, "photo,label\n1.jpg,a\n4,b\n")
    assert "line 3: '4' may be cat/4.jpg and dog/4.png: name one" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("photo,cat\n", "and no photo"),
        ("photo\n1.jpg\n", "has no labels beside the photos"),
        ("what\n1\n", "it has one column alone"),
        ("a,b\nx,1\n", "no column names photos"),
        ("a,b,c\n1.jpg,2.jpg,1\n", "several columns name files; its columns are a, b, c"),
        ("photo,cat,cat\n1.jpg,1,0\n", "two columns are called 'cat'"),
        ("photo,cat,dog\n1.jpg,1,maybe\n", "line 2: column dog holds 'maybe', neither yes nor no"),
        ("photo,cat\n1.jpg,1\n9.jpg,0\n", "1 of 2 photos are not below"),
        ("photo,cat\n1.jpg,1\n../labels.csv,0\n", "line 3: '../labels.csv' leads out of"),
        ("photo,cat\n/etc/passwd,1\n", "line 2: '/etc/passwd' leads out of"),
        ("photo,cat\nC:\\x\\1.jpg,1\n", "leads out of"),
        ("photo,cat\n1.jpg,1\n2.jpg,0\n1.jpg,1\n", "1.jpg is there twice, in lines 2 and 4"),
        ("photo,cat\n1.jpg,1\n1,0\n", "1.jpg is there twice, in lines 2 and 3"),
        ("photo,cat\n,1\n", "line 2: the photo's file is blank"),
        ("photo,cat\n1.jpg,1,0,1\n", "line 2: it has 4 cells, and the first line names 2"),
        ('photo,cat\n"1.jpg,1\n2.jpg,0\n', "Are its quotation marks paired?"),
        ("photo,label\n1.jpg,\n2.jpg,?\n", "no photo has a label"),
        ("photo,label\n1.jpg,a\x1bb\n", "must have 1 to 200 characters that can be printed"),
        ("photo,,cat\n1.jpg,x,1\n", "column 2 has no name"),
    ],
)
def test_a_line_on_what_is_wrong(photos, content, expected):
    assert expected in error_of(photos, content)


def test_it_must_be_text(photos):
    path = photos.parent / "labels.csv"
    path.write_bytes(b"photo,label\n1.jpg,\xe4\n")
    with pytest.raises(UserError, match="is not UTF-8 text: save it as UTF-8"):
        table.read(path, photos)
    path.write_bytes(b"photo,label\n1.jpg,a\0b\n")
    with pytest.raises(UserError):
        table.read(path, photos)


def test_columns_that_are_not_labels_are_named(photos):
    found = read(photos, "photo,width,label\n1.jpg,640,cat\n2.jpg,480,dog\n")
    assert found.classes == ("cat", "dog")
    assert found.notes == ["labels are those of column label; columns not used: width"]


def test_classes_that_differ_in_case(photos):
    found = read(photos, "photo,label\n1.jpg,Cat\n2.jpg,cat\n")
    assert found.classes == ("Cat", "cat")
    assert found.notes == ["classes Cat and cat differ in case only"]


def test_many_names_without_endings(tmp_path):
    names = write_photos(tmp_path / "photos", [f"{n:04d}.png" for n in range(300)])
    rows = "".join(f"{name[:-4]},{'ab'[n % 2]}\n" for n, name in enumerate(names))
    assert read(tmp_path / "photos", f"id_code,diagnosis\n{rows}").names == names


def test_a_long_header(photos):
    classes = [f"class {n:06d}" for n in range(14_000)]
    found = read(photos, f"photo,{','.join(classes)}\n1.jpg,{','.join('1' * 14_000)}\n")
    assert found.classes == tuple(classes)


def test_unknown_beside_labels_is_refused(photos):
    assert "lists ? beside labels" in error_of(photos, "photo,labels\n1.jpg,cat;?\n2.jpg,dog\n")
