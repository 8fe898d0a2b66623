"""From results to a folder that can be read, mailed and recomputed: tables, figures, one HTML page."""
