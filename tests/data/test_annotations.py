import pytest

from vtl.data import annotations
from vtl.errors import UserError

BODY = (
    "<annotation><folder>{folder}</folder>"
    "<object><name> dog </name><difficult>1</difficult><part><name>head</name></part></object>"
    "<object><name>cat</name></object></annotation>"
)
OBJECTS = [("dog", True), ("cat", False)]


@pytest.mark.parametrize(
    ("declared", "codec", "folder"),
    [
        ("gb2312", "gb2312", "图片"),
        ("gb2312", "gb18030", "镕"),  # of the larger set, as Windows writes it
        ("Shift_JIS", "shift_jis", "写真"),
        ("euc-kr", "euc_kr", "사진"),
        ("ISO-8859-1", "latin-1", "Käse"),
        ("windows-1252", "cp1252", "Käse\u20ac"),
        ("UTF-16", "utf-16", "图片"),
        ("UTF-16", "utf-8", "图片"),  # as .NET declares it, and then saves it
        ("utf-8", "utf-8-sig", "图片"),
    ],
)
def test_the_declared_encoding_is_read(declared: str, codec: str, folder: str) -> None:
    text = f'<?xml version="1.0" encoding="{declared}"?>\r\n' + BODY.format(folder=folder)
    assert annotations.parse_objects(text.encode(codec)) == OBJECTS


def test_no_encoding_is_declared() -> None:
    text = BODY.format(folder="图片")
    for codec in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert annotations.parse_objects(text.encode(codec)) == OBJECTS


BOMB = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no element found"),
        (b"<annotation><object>", "no element found"),
        (b"\0\1\2\3", "not well-formed"),
        (b"<!DOCTYPE html><html></html>", "it begins with <html> and not <annotation>"),
        (b"<a\x1b[31m/>", "not well-formed"),
        (BOMB.encode(), "it declares the entity b"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation>&x;</annotation>', None),
        (b'<?xml version="1.0" encoding="utf8mb4"?><annotation/>', "the encoding utf8mb4: save"),
        (b'<?xml version="1.0" encoding="punycode"?><annotation/>', "the encoding punycode: save"),
        (b'<?xml version="1.0" encoding="big5"?><annotation>\xff</annotation>', "encoding big5"),
        ("<annotation>\xe9</annotation>".encode("latin-1"), "encoding utf-8: save it as UTF-8"),
        (b"<annotation>" * 101, "more than 100 elements within one another"),
        (b"<annotation><object/></annotation>", "an object has no name"),
        (
            b"<annotation><object><name>a&#9;b</name></object></annotation>",
            "the name 'a b' holds characters that can't be printed",
        ),
    ],
)
def test_what_is_no_annotation(content: bytes, problem: str | None) -> None:
    if problem is None:
        assert annotations.parse_objects(content) == []
        return
    with pytest.raises(UserError) as caught:
        annotations.parse_objects(content)
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_first_name_counts() -> None:
    content = b"<annotation><object><name>a</name><name>b</name></object></annotation>"
    assert annotations.parse_objects(content) == [("a", False)]
