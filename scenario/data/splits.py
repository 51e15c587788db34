"""Take the rows that a split such as ``train[:10%]`` or ``train+test`` names."""

from collections.abc import Mapping


def split_names(split: str) -> set[str]:
    """Return the names a split is put together from, slices left away."""
    return {piece.split("[")[0].strip() for piece in split.split("+")}


def split_spans(lengths: Mapping[str, int], split: str) -> list[tuple[str, range]]:
    """Return the rows that a split takes, in order: a name and a range of its rows each.

    Parameters
    ----------
    lengths : Mapping[str, int]
        Rows of every split there is.

    Raises
    ------
    ValueError
        If a name is not among them or a slice is none; as `datasets` says it.
    """
    if split in lengths:
        return [(split, range(lengths[split]))]
    from datasets import ReadInstruction  # takes a second, and few need it

    spans = ReadInstruction.from_spec(split).to_absolute(dict(lengths))
    return [(span.splitname, range(span.from_ or 0, span.to)) for span in spans]
