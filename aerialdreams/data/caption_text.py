"""Captions: the classes of a mask in words, and templates filled in."""

import unicodedata
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Literal, NamedTuple

# A class's words by its share: the first entry whose minimum it reaches.
AMOUNTS = ((0.6, "mostly "), (0.4, "half "), (0.2, "much "), (0.05, "some "), (0, "a little "))


class CaptionForm(NamedTuple):
    """The form of the captions that a model was trained on.

    Attributes:
        sentences: of the first template, with {fields}; a sentence with an empty field is left out.
        default_place: the field {place} where nothing is known.
        floor_percent: smallest cover of a class that is named.
        most_classes: largest number of classes that are named.
        amounts: whether a class's share is said: none, words or numbers.
    """

    sentences: tuple[str, ...]
    default_place: str
    floor_percent: float
    most_classes: int
    amounts: Literal["none", "words", "numbers"]

    def classes(self, shares: Mapping[str, float]) -> list[str]:
        """Names of classes, largest first, equal ones in the order of `shares`.

        Args:
            shares: share of each class, 0 to 1, by its name, in order of the class table.
        """
        by_area = sorted(shares, key=lambda name: -shares[name])  # stable
        above = [n for n in by_area if shares[n] * 100 >= self.floor_percent and shares[n]]
        # If no class reaches the floor, name the largest.
        names = (above or by_area[:1])[: self.most_classes]
        if self.amounts == "numbers":
            return [f"{name} {shares[name]:.0%}" for name in names]
        if self.amounts == "words":
            return [
                next(words for minimum, words in AMOUNTS if shares[name] >= minimum) + name
                for name in names
            ]
        return names

    def caption(self, shares: Mapping[str, float]) -> str:
        """The caption of a mask of which nothing is known but its classes."""
        known = {"place": self.default_place, "classes": ", ".join(self.classes(shares))}
        fields = {
            name: known.get(name, "")
            for sentence in self.sentences
            for _, name, _, _ in Formatter().parse(sentence)
            if name
        }
        return fill(self.sentences, fields)


def fill(sentences: Sequence[str], fields: Mapping[str, str]) -> str:
    """Fill in a template's sentences, join them with spaces and normalise them to NFC.

    A sentence with an empty field is left out.
    """
    filled = [
        sentence.format(**fields)
        for sentence in sentences
        if all(fields[name] for _, name, _, _ in Formatter().parse(sentence) if name)
    ]
    return unicodedata.normalize("NFC", " ".join(filled))
