"""LoRA with PEFT: the adapter alone is trained, B faster than A (LoRA+).

python examples/lora.py
"""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from adamomentum import AdaMomentum

RATIO = 4


def main() -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for name, p in trained.items() if "lora_B" not in name], "lr": 1e-2},
        {"params": [p for name, p in trained.items() if "lora_B" in name], "lr": 1e-2 * RATIO},
    ]
    # It was torch.optim.AdamW(groups, weight_decay=0.0).
    optimizer = AdaMomentum(groups, weight_decay=0.0, adjust_lr="match_rms_adamw")
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    losses = []
    for step in range(100):
        start = torch.randint(16, (16, 1), generator=torch.Generator().manual_seed(step))
        words = (start + torch.arange(12)) % 16
        loss = model(input_ids=words, labels=words).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.clip_grad_norm_(1.0)
        optimizer.step()
        losses.append(loss.item())
    share = sum(p.numel() for p in trained.values()) / sum(p.numel() for p in model.parameters())
    print(f"{100 * share:.0f} % of the parameters trained: loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


if __name__ == "__main__":
    main()
