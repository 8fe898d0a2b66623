"""Classification of images and signals."""
