"""00 The primer: one small set, one teacher, one student, and everything the other projects build on."""

from kdnb.projects.primer.data import PrimerSettings, open_data
from kdnb.projects.primer.experiment import Primer
from kdnb.projects.primer.terms import FEATURES, LOGITS, RELATIONS, build_terms

__all__ = ["FEATURES", "LOGITS", "RELATIONS", "Primer", "PrimerSettings", "build_terms", "open_data"]
