"""Where trials run. Executors are interchangeable: each turns specs into results as they finish."""
