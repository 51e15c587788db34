"""What makes the images small: libraries without the tables that debuggers alone read."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from tests.rooms import ROOT

SCRIPT = ROOT / "docker" / "forget_symbols.py"
LOAD = """\
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_safetensors_rust", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.deserialize(open(sys.argv[2], "rb").read())[0][0])
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (found,) = Path(safetensors.__file__).parent.glob("_safetensors_rust*.so")
    copy = tmp_path / found.name
    copy.write_bytes(found.read_bytes())
    return copy


def forget(folder: Path) -> str:
    return subprocess.run([sys.executable, SCRIPT, folder], check=True, capture_output=True, text=True).stdout


def test_a_library_is_smaller_and_works_as_before(library: Path) -> None:
    whole = library.stat().st_size
    assert "MB of symbols" in forget(library.parent)
    assert 0.5 * whole < library.stat().st_size < whole - 100_000
    file = library.with_name("some.safetensors")
    save_file({"written": np.arange(3)}, file)
    command = [sys.executable, "-c", LOAD, str(library), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "written" in done.stdout, done.stderr
    once = library.read_bytes()
    forget(library.parent)
    assert library.read_bytes() == once


def test_what_has_no_such_tables_at_its_end_is_left_alone(library: Path) -> None:
    spec = importlib.util.spec_from_file_location("forget_symbols", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    whole = bytearray(library.read_bytes())
    assert module.debug_tables_begin(bytes(whole)) is not None
    assert module.debug_tables_begin(b"no library at all" * 100) is None
    # As if what is loaded went on behind them: a segment that is as long as the file.
    program_at = int.from_bytes(whole[32:40], "little")
    whole[program_at + 32 : program_at + 40] = len(whole).to_bytes(8, "little")
    assert module.debug_tables_begin(bytes(whole)) is None
