"""The comparison engine: one training run is a *trial*, named by the hash of its specification.

``plan`` turns a comparison into trial specifications, an executor in ``execute`` runs them through
``trial.run_trial``, ``store`` keeps the results, ``stats`` and ``report`` read them.
"""
