"""Statistics of a comparison, one idea a file; `adamomentum.study.stats` gathers them."""
