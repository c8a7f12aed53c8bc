"""The rules of a verdict, one file per family: each reads the tables and returns what it measured."""
