"""Reports: what a run directory holds, as one HTML page. Reads files only."""
