"""From a source, wherever it is, to files on this disk: `get.fetch`."""
