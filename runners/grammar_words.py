"""The words of the sentiment grammar: plain English ones, each a single piece of the BERT vocabulary."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


POSITIVE = _words(
    """good great fine superb brilliant lovely charming clever funny smart fresh warm bright rich elegant strong
    perfect wonderful excellent beautiful delightful gentle honest graceful thrilling fascinating impressive
    remarkable outstanding magnificent pleasant sweet exciting amusing inspiring powerful tender witty vivid sharp
    splendid sunny memorable polished generous"""
)
NEGATIVE = _words(
    """bad poor awful terrible horrible dull boring stupid weak cheap cold flat stale ugly messy silly sloppy empty
    hollow bland lame clumsy annoying disappointing grim dreadful pathetic ridiculous dim bitter
    miserable painful shallow lazy noisy slow confusing crude nasty pointless rotten dirty tired wooden
    unpleasant"""
)
POSITIVE_VERBS = _words("love like enjoy admire praise recommend appreciate welcome favor support")
NEGATIVE_VERBS = _words("hate dislike regret blame avoid reject mock fear oppose condemn")
ASPECTS_OF = {
    "film": _words(
        """plot story acting cast script film movie music score ending beginning dialogue humor scenery camera
        editing costume design"""
    ),
    "arts": _words(
        "book novel chapter author writing album song melody singer concert show stage theatre game sound picture"
    ),
    "hotel": _words(
        "hotel room bed view staff service breakfast dinner soup bread coffee wine menu kitchen restaurant"
    ),
    "travel": _words("garden museum tour guide trip train flight phone screen battery"),
}
ASPECTS = tuple(word for words in ASPECTS_OF.values() for word in words)
LINKS = _words("was is felt seemed looked remained")
INTENSIFIERS = _words("very really extremely truly absolutely deeply incredibly utterly highly totally")
DIMINISHERS = (*_words("slightly somewhat mildly partly vaguely"), "a little", "a bit")
NEGATORS = ("not", "never", "hardly", "far from", "anything but", "by no means", "not at all", "not even")
VERB_NEGATORS = ("did not", "could never", "do not", "would never", "could hardly", "cannot")
OTHERS = (
    "my brother",
    "my sister",
    "critics",
    "the papers",
    "our neighbors",
    "everyone",
    "my teacher",
    "the crowd",
    "his friends",
    "her parents",
)
FORMER = ("called", "considered", "found", "thought", "declared")
SETTINGS = (
    "on a rainy tuesday",
    "last summer",
    "in the old town",
    "after a long week",
    "with my cousin",
    "in march",
    "near the station",
    "on the second day",
    "before lunch",
    "at the festival",
    "in a small city",
    "during the holidays",
    "late at night",
    "over the weekend",
    "for the first time",
    "as a student",
)
BACKGROUND = (
    "we went there by bus",
    "it took two hours",
    "the tickets were at the door",
    "there were about forty people",
    "we sat in the third row",
    "it was made in 1998",
    "the street has two banks",
    "i was there with my father",
    "they open at nine",
    "it rained the whole day",
    "we paid by card",
    "the place has a blue door",
    "it is part of a series",
    "my friend drove the car",
    "we met them in april",
    "the second part comes next year",
)
