"""From a data set to a served, watched and reproducible model, from one command line."""
