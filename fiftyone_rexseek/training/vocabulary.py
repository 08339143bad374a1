"""A closed-vocabulary tokenizer for models trained on drawn scenes: one token per word.

It is an ordinary ``PreTrainedTokenizerFast``, so that the RexSeek classes load it like any other. Text is lower-cased
and split at white space and punctuation; a word outside the list becomes ``<unk>``. The fixed pieces of RexSeek's
prompt and its rejection sentence are one token each, which leaves the text what it is and makes prompts short.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ..errors import ConfigError

UNKNOWN, END, PAD = "<unk>", "<|im_end|>", "<|endoftext|>"
#: Pieces of the prompt (see ``models.rexseek.processing``) that become single tokens.
PROMPT_PIECES = (
    "<|im_start|>user\n",
    "\n",
    "\nPlease detect ",
    " in this image. Answer the question with object indexes.",
    "<|im_end|>\n<|im_start|>assistant\n",
)
_SPACE = "▁"  # in front of every word, as in SentencePiece
_SPARE = "<spare_"
#: Places that :func:`with_words` can give to new words.
SPARE_WORDS = 32


def word_tokenizer(words: Iterable[str], num_object_tokens: int = 100, sentences: Sequence[str] | None = None):
    """Builds the tokenizer.

    Args:
        words: the vocabulary, lower case
        num_object_tokens: how many ``<obj{i}>`` tokens it gets
        sentences: whole sentences that become one token each; by default the rejection sentence

    Returns:
        ``transformers.PreTrainedTokenizerFast``

    Example::

        >>> tokenizer = word_tokenizer(["the", "man"])
        >>> ids = tokenizer.encode("<ground>The  man hopping</ground><objects><obj7></objects>", add_special_tokens=False)
        >>> tokenizer.decode(ids)
        '<ground>the man<unk></ground><objects><obj7></objects>'
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import AddedToken, PreTrainedTokenizerFast

    from ..models.rexseek.config import REJECTION_SENTENCE
    from ..models.rexseek.processing import add_answer_tokens

    vocabulary = {UNKNOWN: 0}
    for word in dict.fromkeys(words):
        vocabulary[_SPACE + word] = len(vocabulary)
    for i in range(SPARE_WORDS):
        vocabulary[f"{_SPARE}{i:02d}>"] = len(vocabulary)
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[\s.,;:!?\"]+"), " "), normalizers.Strip()]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    # pieces side by side, a space in front of a word unless a tag comes before it
    backend.decoder = decoders.Sequence(
        [decoders.Fuse(), decoders.Replace("<ground>" + _SPACE, "<ground>"), decoders.Replace(_SPACE, " ")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
    pieces = [*PROMPT_PIECES, *(sentences if sentences is not None else (REJECTION_SENTENCE,))]
    tokenizer.add_tokens([AddedToken(p, normalized=False, special=False) for p in pieces])
    add_answer_tokens(tokenizer, num_object_tokens)
    return tokenizer


def room_for_words(tokenizer) -> int:
    """How many words :func:`with_words` can still give places to.

    Example::

        >>> room_for_words(word_tokenizer(["the"])), room_for_words(with_words(word_tokenizer(["the"]), ["wombat"]))
        (32, 31)
    """
    return sum(word.startswith(_SPARE) for word in tokenizer.get_vocab())


def with_words(tokenizer, words: Iterable[str]):
    """A copy of a word tokenizer that knows more words, in the places of its spare ones.

    The rows of the embedding that belong to spare words have never been trained: fine-tune before asking.

    Raises:
        ConfigError: more new words than spare places

    Example::

        >>> more = with_words(word_tokenizer(["the"]), ["wombat"])
        >>> more.decode(more.encode("the Wombat", add_special_tokens=False)).strip()
        'the wombat'
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    vocabulary = state["model"]["vocab"]
    spare = sorted((i, word) for word, i in vocabulary.items() if word.startswith(_SPARE))
    for word in words:
        word = _SPACE + backend.normalizer.normalize_str(word)
        if word in vocabulary:
            continue
        if not spare:
            raise ConfigError("no room for more words", expected=f"at most {SPARE_WORDS} new words", found=word[1:])
        index, old = spare.pop(0)
        del vocabulary[old]
        vocabulary[word] = index
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token=tokenizer.unk_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        clean_up_tokenization_spaces=False,
    )


def words_of(tokenizer, text: str) -> list[str]:
    """The words of a text, as a word tokenizer looks them up: normalised, without punctuation.

    Example::

        >>> words_of(word_tokenizer([]), "the Wombat; the emu!")
        ['the', 'wombat', 'the', 'emu']
    """
    return [word for word in tokenizer.backend_tokenizer.normalizer.normalize_str(text).split(" ") if word]


def is_word_tokenizer(tokenizer) -> bool:
    """Whether a tokenizer was made by :func:`word_tokenizer`.

    Example::

        >>> is_word_tokenizer(word_tokenizer(["the"]))
        True
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and type(backend.model).__name__ == "WordLevel"
