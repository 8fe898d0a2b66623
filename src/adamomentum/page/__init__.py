"""What every page of this library shares: colours, the look of figures, the style sheet."""
