"""Everything that holds a model runs on another device than the CPU: CUDA, else a stand-in for it."""

import subprocess
import sys

from tests.rooms import ROOT


def test_models_and_a_whole_run_compute_on_another_device_what_they_do_on_the_cpu() -> None:
    """In a process of its own: a device must be known to torch before its first backward pass."""
    cases = ["tests/moe/on_another_device.py", "tests/runs/on_another_device.py"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", *cases]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
