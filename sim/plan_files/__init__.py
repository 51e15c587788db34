"""Contact plans on disk, in our forms and in those of other tools."""
