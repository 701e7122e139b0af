"""Among whom one is chosen: the best that are foretold, and what was measured already, all within the budget."""

from __future__ import annotations

import numpy as np

from deps.extract.guide import guide_from_survey
from deps.extract.search import Limit
from deps.extract.select import measured_field
from deps.extract.survey import survey
from deps.ground.console import Story
from deps.supernet.sampling import encode

QUIET = Story(quiet=True)


def test_the_field_is_the_finalists_and_all_that_the_survey_measured_within_the_budget(
    evaluator, costs, digits, smallest, rng
):
    """A good subnet that was measured by chance may win; one that costs too much may not."""
    surveyed = survey(evaluator, costs["flops"], (costs["flops"],), rng, QUIET, most=8)
    flops = costs["flops"](surveyed.genes)
    limit = Limit(costs["flops"], float(np.sort(flops)[4]))
    best = encode(digits, [smallest])
    field = measured_field(digits, guide_from_survey(surveyed), evaluator, best, [limit], QUIET)
    assert (field.finalists, field.images) == (1, 300)
    within = surveyed.genes[flops <= limit.maximum]
    assert {row.tobytes() for row in field.genes} == {row.tobytes() for row in np.concatenate([best, within])}
    assert field.measured is not None
    np.testing.assert_array_equal(field.measured, evaluator.measure(field.archs, QUIET))
