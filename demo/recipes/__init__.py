"""Small, complete programs to copy from; each says in its docstring how it is run."""
