"""The tasks of the study."""

# Name and version of each task, apart from its code so that planning need not import torch. The version is raised
# whenever the same specification would train differently.
IMAGE_CLASSIFICATION = ("image-classification", 1)
