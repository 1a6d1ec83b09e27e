"""Data shipped with the package: the configuration schema and the model catalogue."""
