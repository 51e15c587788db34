"""What a run leaves behind: its folder, event log, curves, saved state, and what its report shows."""
