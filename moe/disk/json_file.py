"""Read a JSON file of a checkpoint or an adapter: an object, or one sentence on what is wrong."""

import json
from pathlib import Path
from typing import Any

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_object(file: Path, owner: str, *, advice: str = "download it again") -> dict[str, Any]:
    """Return the JSON object in a file.

    Parameters
    ----------
    file : Path
        Which.
    owner : str
        Whose it is, as the error says it, such as ``"checkpoint /models/mixtral"``.
    advice : str
        What to do about a file that is no JSON object.

    Raises
    ------
    ValueError
        If there is no such file, it cannot be read, or it is anything else than a JSON object in UTF-8.
    """
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{owner} has no {file.name}") from None
    except OSError as error:
        raise ValueError(f"{owner} has a {file.name} that cannot be read ({error.strerror})") from None
    if raw.startswith(_BYTE_ORDER_MARK):
        raise ValueError(
            f"{owner} has a {file.name} that begins with a byte order mark, which transformers does not "
            "read; save it as UTF-8 without one"
        )
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{owner} has a {file.name} that is not JSON ({reason}); {advice}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{owner} has a {file.name} that is not a JSON object; {advice}")
    return content
