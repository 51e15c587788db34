"""What a run leaves behind: its folder, event log, curves and saved state."""
