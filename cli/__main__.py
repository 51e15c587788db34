"""``python -m cli``: what the command ``ems-fl`` does, where no script was written."""

from cli.app import app

app(prog_name="ems-fl")
