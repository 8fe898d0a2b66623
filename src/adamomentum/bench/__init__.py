"""Step time and memory of AdaMomentum beside named peers: what ``adamomentum bench`` runs.

Every optimizer of a workload steps the same parameters with the same gradients and, where its state has the form of
Adam's, the same moments: where tensors happen to lie in memory moves a step time by a third. All figures are ratios
to ``torch.optim.AdamW(fused=True)`` taken in the same round.
"""
