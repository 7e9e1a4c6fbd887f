"""Campaign tables to what epidemiologists and occupational physicians publish."""
