"""The charts of the report, each made from what a run recorded."""
