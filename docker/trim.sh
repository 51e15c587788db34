#!/bin/sh
# trim.sh FILE: take the packages that FILE names out of /opt/venv, then what no program runs: headers and tests.
set -eu
packages=/opt/venv/lib/python3*/site-packages
# Word splitting is wanted: the file lists several names.
# shellcheck disable=SC2046
/opt/venv/bin/pip uninstall --disable-pip-version-check -q -y $(grep -v '^#' "$1")
# shellcheck disable=SC2086
rm -rf $packages/torch/test $packages/torch/include $packages/torch/share $packages/pyarrow/include
# shellcheck disable=SC2086
find $packages -type d -name tests -prune -exec rm -rf {} +
# torch starts this one, and no other of its programs.
# shellcheck disable=SC2086
find $packages/torch/bin -type f ! -name torch_shm_manager -exec rm -f {} +
