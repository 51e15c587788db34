"""When satellites see a site: contact windows, to a microsecond."""
