"""The command ``ems-fl``: every way to use the project, by one name."""
