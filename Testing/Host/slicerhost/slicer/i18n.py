"""Stand-in for Slicer's translation functions: text is returned as it is."""


def tr(text):
    """Translate in the context of the calling module."""
    if not isinstance(text, str):
        raise TypeError(f"_() takes text; got {text!r}")
    return text


def translate(context, text):
    """Translate in a named context."""
    if not (isinstance(context, str) and isinstance(text, str)):
        raise TypeError(f"translate() takes two texts; got {context!r}, {text!r}")
    return text
