"""``python forget_symbols.py FOLDER``: take out of libraries the symbol tables that debuggers alone read.

What ``strip --strip-unneeded`` does, for images that have no binutils: 90 MB of torch. Only where those
tables, and nothing that is loaded, lie at a file's end; every other file is left as it is.
"""

import struct
import sys
from pathlib import Path

_SYMBOLS, _LOADED_FLAG = 2, 2  # SHT_SYMTAB, SHF_ALLOC
LEAST_BYTES = 1_000_000


def debug_tables_begin(data: bytes) -> int | None:
    """Return where the tables begin that no loader reads, or None where a file does not end with them.

    Of a 64-bit little-endian ELF file; see elf(5).
    """
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    program_at, sections_at = struct.unpack_from("<QQ", data, 32)
    program_size, programs, section_size, sections = struct.unpack_from("<HHHH", data, 54)
    # Of each section's header, behind its name: type, flags, address, offset.
    found = [
        struct.unpack_from("<IQQQ", data, sections_at + number * section_size + 4)
        for number in range(sections)
    ]
    begins = [offset for kind, _, _, offset in found if kind == _SYMBOLS]
    if not begins:
        return None
    loaded_to = max(
        sum(struct.unpack_from("<Q16xQ", data, program_at + number * program_size + 8))
        for number in range(programs)
    )
    is_last = all(offset < begins[0] or not flags & _LOADED_FLAG for _, flags, _, offset in found)
    return begins[0] if is_last and loaded_to <= begins[0] else None


def forget(path: Path) -> int:
    """Cut a file's tables off and return how many bytes that were."""
    data = path.read_bytes()
    begins = debug_tables_begin(data)
    if begins is None:
        return 0
    header = bytearray(data[:64])
    struct.pack_into("<Q", header, 40, 0)  # where the table of sections is
    struct.pack_into("<HH", header, 60, 0, 0)  # how many there are, and which one has their names
    path.write_bytes(bytes(header) + data[64:begins])
    return len(data) - begins


def main(folder: Path) -> None:
    """Cut those of all large libraries under a folder."""
    libraries = [path for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    freed = sum(forget(path) for path in libraries if path.stat().st_size >= LEAST_BYTES)
    print(f"took {freed / 1e6:.0f} MB of symbols out of {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
