"""The files that take the place of the example's, in a project with its own table."""
