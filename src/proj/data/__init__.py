"""From a source to arrays on disk that training reads through a memory map."""
