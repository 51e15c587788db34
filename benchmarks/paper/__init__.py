"""EMS-FL against its rivals on one sky: the same model, data, devices and seeds, with intervals."""
