"""What goes wrong with model files, in words for the person who gave them."""


class ModelError(Exception):
    """A model cannot be opened, fetched or run: one sentence with the file, the fault and a way out."""
