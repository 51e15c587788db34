#!/bin/sh
# trim.sh FILE: take the packages that FILE names out of /opt/venv, then what no program runs: headers, tests, symbols.
set -eu
packages=/opt/venv/lib/python3*/site-packages
# Word splitting is wanted: the file lists several names.
# shellcheck disable=SC2046
python3 -m pip --python /opt/venv/bin/python uninstall --disable-pip-version-check -q -y $(grep -v '^#' "$1")
# shellcheck disable=SC2086
rm -rf $packages/torch/test $packages/torch/include $packages/torch/share $packages/pyarrow/include
# shellcheck disable=SC2086
find $packages -type d -name tests -prune -exec rm -rf {} +
# torch starts this one, and no other of its programs.
# shellcheck disable=SC2086
find $packages/torch/bin -type f ! -name torch_shm_manager -exec rm -f {} +
# Arrow's servers and clouds; what reads files does without.
# shellcheck disable=SC2086
rm -f $packages/pyarrow/*arrow_flight* $packages/pyarrow/_flight* $packages/pyarrow/*substrait* $packages/pyarrow/libarrow_s3* $packages/pyarrow/_s3fs*
# What only a debugger reads.
# shellcheck disable=SC2086
/opt/venv/bin/python "$(dirname "$0")/forget_symbols.py" $packages
