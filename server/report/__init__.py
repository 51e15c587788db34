"""What people see of a run: its numbers and its last screen."""
