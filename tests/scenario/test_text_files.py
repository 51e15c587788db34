"""Files of text: each is read to its last row or refused in one sentence with the place and the cause."""

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scenario.data.text_source import LabelledTexts, read_texts
from scenario.tables.file_formats import COMPRESSIONS, FORMATS, format_of

ROWS = [("gain fade beacon", "NA"), ('a "quoted", text\nof two lines', "EU"), ("orbit größe", "AF")]


def read(path: Path, *, text: str = "text", domain: str = "region", split: str = "train") -> LabelledTexts:
    return read_texts(
        str(path),
        text_column=text,
        domain_column=domain,
        label_column="",
        split=split,
        needs="domain" if domain else "",
    )


def delimited(separator: str) -> bytes:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    lines = [f"text{separator}region", *(f"{quoted(text)}{separator}{name}" for text, name in ROWS)]
    return "\r\n".join(lines).encode()


def json_lines() -> bytes:
    return "\n".join(
        json.dumps({"text": text, "region": name}, ensure_ascii=False) for text, name in ROWS
    ).encode()


def json_array() -> bytes:
    return json.dumps([{"text": text, "region": name} for text, name in ROWS], indent=1).encode()


def parquet(**columns: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def rows_as(text_type: pa.DataType) -> bytes:
    return parquet(
        text=pa.array([text for text, _ in ROWS]).cast(text_type),
        region=pa.array([name for _, name in ROWS]).cast(text_type),
    )


CONTENTS: dict[str, Callable[[], bytes]] = {
    ".csv": lambda: delimited(","),
    ".tsv": lambda: delimited("\t"),
    ".json": json_array,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".parquet": lambda: rows_as(pa.string()),
}

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}


def test_every_ending_that_is_named_is_tried_here() -> None:
    assert {*CONTENTS, ".txt"} == {*FORMATS}
    assert {*PACKERS} == {"", *COMPRESSIONS}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("ending", CONTENTS)
def test_every_ending_reads_the_same_rows(tmp_path: Path, ending: str, packing: str) -> None:
    path = tmp_path / f"rows{ending.upper()}{packing}"
    path.write_bytes(PACKERS[packing](CONTENTS[ending]()))
    found = read(path)
    assert list(zip(found.texts, found.domains, strict=True)) == ROWS
    assert found.notes == ()


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.csv.zip", "a.feather", "a.gz"])
def test_another_ending_is_refused_with_those_that_are_known(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"text,region\na,b\n")
    with pytest.raises(ValueError, match=r"no known format; those known are \.csv, \.tsv.*\.txt.*\.zst"):
        read(tmp_path / name)


@pytest.mark.parametrize("of_text", ["string_view", "large_string", "dictionary"])
def test_every_type_of_text_in_parquet_is_read(tmp_path: Path, of_text: str) -> None:
    types = {
        "string_view": pa.string_view(),
        "large_string": pa.large_string(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
    }
    path = tmp_path / "rows.parquet"
    path.write_bytes(rows_as(types[of_text]))
    assert [*zip(read(path).texts, read(path).domains, strict=True)] == ROWS


@pytest.mark.parametrize(
    "name", ["a[1].csv", "[ab].csv", "a*.csv", "a?.csv", "a b#1.csv", "größe λ.csv", "%41.csv", "a::b.csv"]
)
def test_a_file_name_is_a_name_and_no_pattern(tmp_path: Path, name: str) -> None:
    for other in ("a1.csv", "a.csv", "b.csv", "ab.csv", "A.csv"):
        (tmp_path / other).write_text("text,region\nwrong,wrong\n")
    (tmp_path / name).write_text("text,region\nright,right\n")
    assert read(tmp_path / name).texts == ["right"]


def test_rows_that_are_left_out_are_counted_by_cause(tmp_path: Path) -> None:
    rows = [("one", "EU"), ("one", "AF"), (" ", "EU"), (None, "EU"), ("two", None), ("three", "")]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "region": name}) for text, name in rows))
    found = read(path)
    assert found.texts == ["one"]
    assert found.notes == (
        "5 of 6 rows left out: 1 with a text that an earlier row has, 2 without text in text,"
        " 2 without a value in region",
    )
    assert read(path, domain="").texts == ["one", "two", "three"], "a domain that nobody needs"


BODY = "text,region\none,größe\ntwo,EU\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_say_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(BODY.encode(encoding))
    assert read(path).domains == ["größe", "EU"]
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"text": "one", "region": "größe"}'.encode(encoding))
    assert read(path).domains == ["größe"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cp1252.csv", BODY.encode("cp1252"), r"line 2: byte 0xF6 is not UTF-8 .*Windows-1252.*'ö'"),
        ("half.csv", BODY.encode()[:19], "line 2: the file is cut short, in the middle of a UTF-8 character"),
        ("no_mark.csv", BODY.encode("utf-16-le"), "line 1: it looks like UTF-16 without a byte"),
        ("odd.csv", BODY.encode("utf-16")[:-1], "line 3: not UTF-16, which its byte order mark says"),
        ("zeros.csv", b"text,region\none,EU\n" + bytes(9) + b"\n", "line 3 holds a NUL character; save"),
        ("zip.csv", b"PK\x03\x04 and more", "it holds a zip archive"),
        (
            "gz.csv",
            gzip.compress(b"text,region\na,b\n", mtime=0),
            r"it holds gzip data, whose ending would be \.gz",
        ),
        (
            "short.csv",
            b"text,region\none,EU\ntwo\n",
            "line 3: values and names differ in number, 1 here and 2",
        ),
        ("long.csv", b'text,region\n"on\ne",EU\na,b,c\n', "line 4: values and names differ in number, 3"),
        (
            "quote.csv",
            b'text,region\none,EU\n"two,EU\nthree,AF\n',
            "row that begins in line 3 cannot be read",
        ),
        ("twice.csv", b"text,region,text\na,b,c\n", "column 'text' is there more than once"),
        ("cut.json", b'[{"text": "a", "region": "b"},\n{"text": "b"', "line 2: no JSON .*cut short"),
        ("cut2.json", b'[{"text": "a", "region": "b"}\n', "line 2: no JSON .*cut short"),
        ("cut.jsonl", b'{"text": "a", "region": "b"}\n{"text": "b', "line 2: no JSON .*cut short"),
        ("bad.jsonl", b'{"text": "a", "region": "b"}\n{text: 1}\n{}\n', r"line 2: no JSON \(Expecting prop"),
        ("scalar.json", b"[\n3]", r"line 2 holds a number where an object \{\.\.\.\} must be"),
        ("deep.json", b"[" * 100_000, "line 1: "),
        (
            "twice.jsonl",
            b'{"region": "b"}\n{"text": "a", "text": "b"}',
            "line 2: the key 'text' is given more",
        ),
        (
            "cut.jsonl.gz",
            gzip.compress(json_lines() * 9, mtime=0)[:60],
            r"cut short or no gz data \(Compressed file",
        ),
        ("cut.jsonl.xz", lzma.compress(json_lines())[:60], "cut short or no xz data"),
        ("cut.jsonl.bz2", bz2.compress(json_lines())[:60], "cut short or no bz2 data"),
        ("cut.jsonl.zst", PACKERS[".zst"](json_lines())[:30], "cut short or no zst data"),
        ("no.jsonl.gz", json_lines(), r"cut short or no gz data \(Not a gzipped file"),
        ("cut.parquet", rows_as(pa.string())[:-20], "magic bytes not found"),
        ("none.parquet", b"", "Parquet file size is 0 bytes"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:16],
)
def test_a_damaged_file_is_refused_with_the_line_and_the_cause(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' \(split 'train'\) cannot be read: .*{says}") as refusal:
        read(tmp_path / name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content"), [("e.csv", b""), ("e.txt", b"\n \n"), ("e.json", b"[]"), ("h.csv", b"text,region\n")]
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' \(split 'train'\) has no rows"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "c\\ud800", "region": "EU"}', "line 3 holds half of a surrogate pair"),
        ('{"text": "c", "region": "\\udc00"}', "line 3 holds half of a surrogate pair"),
        ('{"text": 3.5, "region": "EU"}', "column 'text' does not hold text but a number in line 3"),
        ('{"text": ["c"], "region": "EU"}', "column 'text' does not hold text but a list in line 3"),
        ('{"text": false, "region": "EU"}', "column 'text' does not hold text but true or false in line 3"),
    ],
)
def test_a_row_that_is_no_text_is_refused_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "region": "EU"}\n\n' + line + '\n{"text": "b", "region": "EU"}\n')
    with pytest.raises(ValueError, match=says):
        read(path)


def test_a_byte_that_is_no_utf_8_in_parquet_is_refused_with_its_row(tmp_path: Path) -> None:
    ends, letters = pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"ab\xff")
    path = tmp_path / "rows.parquet"
    path.write_bytes(
        parquet(text=pa.StringArray.from_buffers(2, ends, letters), region=pa.array(["EU", "EU"]))
    )
    with pytest.raises(ValueError, match=r"row 2: column 'text' holds byte 0xFF, which is not UTF-8"):
        read(path)


def test_objects_may_be_laid_out_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{\n "text": "a",\n "region": "EU"\n}\n{\n "text": "b",\n "region": NaN\n}\n')
    assert read(path).texts == ["a"]
    path.write_text('["one", "two"]')
    assert read(path, domain="").texts == ["one", "two"]


def test_a_text_may_be_longer_than_a_field_of_the_csv_module(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"text,region\n{'a' * 200_000},EU\n")
    assert len(read(path).texts[0]) == 200_000


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_part_paragraphs_whatever_ends_a_line(tmp_path: Path, end: str) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(end.join(["one", "two", " ", "", "three"]).encode())
    assert read(path, domain="").texts == ["one\ntwo", "three"]


def test_a_pipe_and_a_name_that_is_too_long_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match=r"pipe\.csv' is neither a file nor a folder"):
        read(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match=r"a\.csv' cannot be read: File name too long"):
        read(tmp_path / f"{'a' * 300}.csv")


def test_a_format_is_known_by_the_last_ending_before_the_compression() -> None:
    assert format_of("a.parquet.csv.gz") == ("csv", ".gz")
    assert format_of("A.NDJSON") == ("json", "")
    assert format_of("owner/name") is None
