"""The ClientApp of devices that do nothing, where Ray's workers can import it."""

from benchmarks.throughput.world import echo_app

app = echo_app()
