"""What people see of a run: its last screen, and the page with its charts."""
