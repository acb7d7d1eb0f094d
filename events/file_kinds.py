"""Recognises files that are not UTF-8 text, and says how to convert them."""

from typing import Final

BOM: Final = b"\xef\xbb\xbf"
"""The byte order mark that some editors put before UTF-8 text. Readers skip it."""
_UTF_16: Final = "text in UTF-16; convert it to UTF-8, for example with: iconv -f {} -t UTF-8"
_UTF_32: Final = "text in UTF-32; convert it to UTF-8, for example with: iconv -f UTF-32 -t UTF-8"
_KINDS: Final[dict[bytes, str]] = {
    b"\x1f\x8b": "compressed with gzip; unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it with unzstd",
    b"BZh": "compressed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it with unxz",
    b"PK\x03\x04": "a ZIP archive; unpack it with unzip",
    b"\xff\xfe\x00\x00": _UTF_32,
    b"\x00\x00\xfe\xff": _UTF_32,
    b"\xff\xfe": _UTF_16.format("UTF-16"),
    b"\xfe\xff": _UTF_16.format("UTF-16"),
    b"SQLite format 3\x00": "an SQLite database; write a session of it to a file with: orch export SESSION -o FILE",
}
"""First bytes of a file → its kind. The longer prefix comes first: UTF-32 begins like UTF-16."""


def other_kind(data: bytes) -> str:
    """The kind of a file with these first bytes, and how to convert it; empty: it may be UTF-8 text."""
    for beginning, words in _KINDS.items():
        if data.startswith(beginning):
            return words
    zeros, letters = data[:4:2], data[1:4:2]
    for name, nothing, said in (("UTF-16BE", zeros, letters), ("UTF-16LE", letters, zeros)):
        if nothing == b"\x00\x00" and said.isascii() and said.decode().isprintable():
            return _UTF_16.format(name)
    return ""
