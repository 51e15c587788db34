"""The tokenizer of a checkpoint: loaded, and every token has a row in the model's embedding."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from moe.disk.layout import read_config
from moe.disk.shards import open_checkpoint
from moe.disk.storage import Storage

# By one of these a tokenizer is made; the other files say how.
_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer that lies beside a model.

    Parameters
    ----------
    path : str or Path
        Folder of a checkpoint, or a hub name.

    Raises
    ------
    ValueError
        If there is none, or it is damaged, or needs code of its own; or the checkpoint is refused.
    """
    checkpoint = open_checkpoint(path)
    folder = checkpoint.folder
    # Read by ourselves: transformers stumbles over nulls that `read_config` leaves out.
    config = read_config(checkpoint)
    try:
        loaded: Any = AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # Each format has a reader of its own, with exceptions of its own.
        if not any((folder / name).is_file() for name in _FILES):
            raise ValueError(
                f"checkpoint {folder} has no tokenizer (one of {', '.join(_FILES)}); copy the tokenizer's "
                "files of the model it was made from there"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"checkpoint {folder} has a tokenizer that transformers does not load ({type(error).__name__}: "
            f"{reason}); copy the tokenizer's files of the model it was made from there"
        ) from error
    tokenizer: PreTrainedTokenizerBase = loaded
    return tokenizer


def check_tokens(tokenizer: PreTrainedTokenizerBase, storage: Storage) -> None:
    """Refuse a tokenizer that has tokens for which the model has no embedding.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        From `load_tokenizer`.
    storage : Storage
        Of the same checkpoint.

    Raises
    ------
    ValueError
        With the first such token, and both sizes.
    """
    embedding: Any = storage.model.get_input_embeddings()
    num_rows = int(embedding.weight.shape[0])
    beyond = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= num_rows)
    if beyond:
        index, token = beyond[0]
        raise ValueError(
            f"checkpoint {storage.checkpoint.folder} has an embedding of {num_rows} rows and a tokenizer of "
            f"{len(tokenizer)} tokens: {len(beyond)} have no row, the first is {token!r}, number {index}. "
            "Give the tokenizer that belongs to this model, or save the model with a larger embedding "
            "(resize_token_embeddings)"
        )
