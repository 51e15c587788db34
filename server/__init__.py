"""On the satellite: configuration, the run, evaluation, state and report."""
