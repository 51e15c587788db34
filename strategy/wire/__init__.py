"""Arrays on the wire: their names there, and how many bits a number has."""
