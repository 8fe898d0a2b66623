"""Translation from German to English."""
