"""Does this node have the cards that it was promised, and do they compute right? Needs PyTorch.

Ends with 0 when PyTorch sees as many cards as the task asked for, no other, and each multiplies as the CPU does.
"""

import os
import sys

import torch

promised = int(os.environ["DSTACK_GPUS_PER_NODE"])
seen = torch.cuda.device_count()
print(f"promised {promised}, seen {seen}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
wrong = seen != promised
torch.manual_seed(0)
a, b = torch.randn(2, 1024, 1024, dtype=torch.float64)
for index in range(seen):
    card = torch.cuda.get_device_properties(index)
    right = torch.allclose((a.to(index) @ b.to(index)).cpu(), a @ b)
    print(f"cuda:{index} {card.name}, {card.total_memory >> 20} MiB, {'right' if right else 'WRONG'}")
    wrong = wrong or not right
sys.exit(wrong)
