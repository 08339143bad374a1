"""Expressions to exactly N token ids with a BERT WordPiece tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError, DownloadError

#: Where the tokenizer of the public checkpoints comes from.
BERT_BASE = "google-bert/bert-base-uncased"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(folder_or_hub_id: str | os.PathLike = BERT_BASE) -> Any:
    """A BERT tokenizer from a folder (``vocab.txt`` or ``tokenizer.json``) or from the hub.

    Raises:
        CheckpointError: the folder holds no tokenizer, or not a BERT-like one
        DownloadError: the hub cannot be reached
    """
    from transformers import AutoTokenizer, BertTokenizer

    path = Path(folder_or_hub_id).expanduser()
    local = path.exists()
    advice = "Give a folder with BERT's vocab.txt or tokenizer.json as tokenizer=, e.g. a copy of bert-base-uncased."
    try:
        if path.is_file() or (path / "vocab.txt").is_file():
            tokenizer = BertTokenizer(vocab=str(path if path.is_file() else path / "vocab.txt"), do_lower_case=True)
        elif _is_bert(path):
            # AutoTokenizer would look at config.json and warn of a model that it does not know.
            tokenizer = BertTokenizer.from_pretrained(str(path))
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(folder_or_hub_id))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        if local:
            raise CheckpointError(f"no usable tokenizer ({type(e).__name__})", where=path, advice=advice) from e
        what = f"the tokenizer {str(folder_or_hub_id)!r} is not on this machine and could not be downloaded"
        terms = " It comes under: Apache-2.0." if str(folder_or_hub_id) == BERT_BASE else ""
        raise DownloadError(what, found=type(e).__name__, advice=advice + terms) from e
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None or tokenizer.pad_token_id is None:
        raise CheckpointError(
            "the tokenizer is not BERT-like", where=folder_or_hub_id, expected="[CLS], [SEP] and [PAD] tokens", advice=advice
        )
    return tokenizer


def _is_bert(folder: Path) -> bool:
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and str(settings.get("tokenizer_class", "")).startswith("Bert")


def build_word_tokenizer(words: Iterable[str], size: int, max_length: int) -> Any:
    """A WordPiece tokenizer that knows whole words only; anything else becomes ``[UNK]``.

    The vocabulary is filled with ``[unused..]`` entries up to ``size``, room for words of later fine-tuning.

    Example::

        >>> t = build_word_tokenizer(["red", "hat"], size=16, max_length=20)
        >>> t.convert_ids_to_tokens(t("Red hats").input_ids), len(t)
        (['[CLS]', 'red', '[UNK]', '[SEP]'], 16)
    """
    from transformers import BertTokenizer

    entries = [*SPECIAL_TOKENS, *words]
    if len(entries) > size:
        raise CheckpointError("the vocabulary does not fit", expected=f"at most {size} entries", found=len(entries))
    entries += [f"[unused{i}]" for i in range(size - len(entries))]
    vocab = {word: i for i, word in enumerate(entries)}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=max_length)


def tokenize(tokenizer: Any, expressions: Sequence[str], max_length: int) -> tuple[Tensor, Tensor, list[int]]:
    """Ids and mask, int64 (B, max_length), and the full number of ids of each expression.

    As in the public loader: special tokens added, then cut by slicing (a long expression loses its ``[SEP]``), padded
    with 0.
    """
    ids = torch.zeros(len(expressions), max_length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    lengths = []
    for i, expression in enumerate(expressions):
        # Only the beginning can matter; WordPiece of a megabyte of text would take seconds.
        # Half a surrogate pair (a badly decoded file) would be refused by the tokenizer.
        text = expression[: 100 * max_length].encode("utf-8", "replace").decode("utf-8")
        found = tokenizer(text, add_special_tokens=True, verbose=False).input_ids
        lengths.append(len(found))
        found = found[:max_length]
        ids[i, : len(found)] = torch.tensor(found, dtype=torch.long)
        mask[i, : len(found)] = 1
    return ids, mask, lengths
