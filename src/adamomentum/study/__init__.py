"""The comparison engine: one training run is a *trial*, named by the hash of its specification.

``studyfile``, or ``compare`` from options, says what is compared; ``stages`` makes trials of it, as far as the results
so far allow; ``engine`` runs them through an executor in ``execute``; ``store`` keeps the results, and
``report`` reads them.
"""
