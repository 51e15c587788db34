"""On the satellite: the ServerApp, its two kinds of runs, and how their models are measured."""
