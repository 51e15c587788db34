"""What may be the name of a place: anything that can be printed."""

import unicodedata

# Zero width joiner and non-joiner belong to the spelling of names in Persian and in several scripts of India.
_JOINERS = str.maketrans("", "", "\u200c\u200d")


def clean_name(text: str) -> str:
    """Return a name as it is compared: characters composed (NFC), one blank for white space, none around."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def name_fault(name: str) -> str:
    """Return why a text cannot be a name, or nothing.

    Parameters
    ----------
    name : str
        Any letters, digits, blanks, quotes, commas and brackets are allowed; line breaks and other control
        characters are not, nor blanks at the ends, which nobody sees.
    """
    if not name.strip():
        return "must not be empty"
    if name != name.strip():
        return "must not begin or end with a blank"
    if not name.translate(_JOINERS).isprintable():
        return "must hold printable characters only, no line breaks or control characters"
    return ""
