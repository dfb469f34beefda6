"""Terms are chosen by name."""

import pytest

from kdnb.distill.losses import cosine_loss
from kdnb.distill.terms import Term, choose_terms
from kdnb.errors import InputError

TERMS = [Term(name, cosine_loss, "features", "features") for name in ("first", "second", "third")]


def test_chosen_terms_keep_their_order():
    assert choose_terms(TERMS, ("third", "first")) == [TERMS[0], TERMS[2]]
    assert choose_terms(TERMS, ()) == []


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="unknown term 'fourth', expected some of first, second, third"):
        choose_terms(TERMS, ("first", "fourth"))
