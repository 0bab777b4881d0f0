"""Its presence puts `tests/` on the import path, for `from fakes import ...`."""
