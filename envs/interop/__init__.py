"""Other libraries' environments as Palestra's, and Palestra's as theirs.

Each module needs the package it is named for, and imports it only when an environment is made.
"""
