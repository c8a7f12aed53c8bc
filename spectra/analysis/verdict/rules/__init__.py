"""The rules of a verdict, one file a family: each looks at the tables and says what it measured and what follows."""
