"""What each verb of the command line does, once `proj.cli` has read its arguments."""
