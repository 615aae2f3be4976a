"""The configuration: `model` says what may be written, `file` reads it, `rules` and `notices` judge it as a whole.

`types` and `values` are the fields' vocabulary, `faults` how a mistake is told, `schema` the same for editors.
"""
