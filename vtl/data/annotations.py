"""An annotation of VOC's, Annotations/ID.xml: the objects in one photo.

Nothing in the file is trusted: it declares no entities, which could grow without end, and it is
read in the encoding that it declares, which expat alone does for a few only.
"""

import codecs
import re
from xml.parsers import expat

from vtl.errors import UserError
from vtl.untrusted import printable

MAX_BYTES = 1 << 24
"""Of one file: VOC's have a few thousand, those with the outline of each object some megabytes."""

MAX_DEPTH = 100

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")
_KNOWN_CODECS = re.compile(
    "utf-(8|16|32).*|ascii|iso8859-.*|cp[0-9]+|mac-.*|koi8-.*|gb.*|hz|big5.*|shift_jis.*|euc_.*"
)
"""Text as people save it; not Python's further codecs, of which some take quadratic time."""

_NAME, _DIFFICULT = (("annotation", "object", tag) for tag in ("name", "difficult"))


def parse_objects(content: bytes) -> list[tuple[str, bool]]:
    """The class of each object, and whether it is marked difficult.

    Raises:
        UserError: it is no annotation of VOC's, or damaged; the message doesn't name the file.
    """
    reader = _Reader()
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.EntityDeclHandler = reader.refuse_entity
    try:
        parser.Parse(_decode(content).encode(), True)
    except (expat.ExpatError, UnicodeError) as error:
        raise UserError(f"it is damaged: {printable(error)}") from error
    return reader.objects


def _decode(content: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    declared = _DECLARED.match(content[:1000])
    encoding = declared[1].decode("ascii", "replace") if declared else "utf-8"
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        codec = ""
    if not _KNOWN_CODECS.fullmatch(codec):
        raise UserError(f"it declares the encoding {printable(encoding)}: save it as UTF-8")
    if codec.startswith(("utf-16", "utf-32")):
        codec = "utf-8"  # or its declaration would not have been legible
    if codec in ("gb2312", "gbk"):
        codec = "gb18030"  # which contains both; files that declare the small one hold the large
    try:
        return content.decode(codec)
    except UnicodeError as error:
        raise UserError(f"it is not in the encoding {encoding}: save it as UTF-8") from error


class _Reader:
    """What expat calls: keeps the path to where it is, and the objects so far."""

    def __init__(self) -> None:
        self.objects: list[tuple[str, bool]] = []
        self._path: tuple[str, ...] = ()
        self._texts: dict[tuple[str, ...], str] = {}
        self._keeps_text = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._path and tag != "annotation":
            raise UserError(
                f"it is no annotation of VOC's, for it begins with <{printable(tag, 60)}> and not "
                "<annotation>"
            )
        if len(self._path) == MAX_DEPTH:
            raise UserError(f"it has more than {MAX_DEPTH} elements within one another")
        self._path += (tag,)
        if self._path == _NAME[:2]:
            self._texts = {}
        # The first of each, should there be more.
        self._keeps_text = self._path in (_NAME, _DIFFICULT) and self._path not in self._texts
        if self._keeps_text:
            self._texts[self._path] = ""

    def text(self, text: str) -> None:
        if self._keeps_text:
            self._texts[self._path] += text

    def end(self, tag: str) -> None:
        if self._path == _NAME[:2]:
            self.objects.append(_object(self._texts))
        self._path = self._path[:-1]
        self._keeps_text = False

    def refuse_entity(self, name: str, *rest: object) -> None:
        raise UserError(f"it declares the entity {printable(name, 60)}, and none is read")


def _object(texts: dict[tuple[str, ...], str]) -> tuple[str, bool]:
    name = texts.get(_NAME, "").strip()
    flag = texts.get(_DIFFICULT, "0").strip()
    if not name:
        raise UserError("an object has no name")
    if not name.isprintable():
        raise UserError(f"the name {printable(name, 60)!r} holds characters that can't be printed")
    if flag not in ("0", "1"):
        raise UserError(
            f"the difficult flag of {printable(name, 60)!r} must be 0 or 1, "
            f"got {printable(flag, 60)!r}"
        )
    return name, flag == "1"
