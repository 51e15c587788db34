"""The stub app of the launcher's tests."""
