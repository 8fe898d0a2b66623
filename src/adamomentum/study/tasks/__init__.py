"""What is trained: each task turns data and a budget into steps and evaluations."""
