"""The statistics of a comparison: pure functions on plain or labelled numbers. scipy does the work where it can."""
