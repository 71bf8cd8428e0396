"""What every room stands on: errors, names, options, seeds, files, processes, checks."""
