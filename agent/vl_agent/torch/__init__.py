"""Three lines that make a PyTorch script resume bit for bit: ``Checkpointer``.

    ckpt = Checkpointer("ckpt", model=model, optimizer=optimizer, scheduler=scheduler, loader=loader, total_steps=2000)
    for step, batch in ckpt.batches():
        loss = ...
        ckpt.step(step, loss)

Saved are model, optimiser, scheduler, anything else with a state_dict, the RNG of Python, NumPy, torch and CUDA, and
the position in the data. A save stops the training for a copy of its state into memory; a process of its own writes it.
Several ranks (DDP, FSDP2) save one checkpoint together: wrap the model first, then make the optimiser, then this.
Under vl-agent it also tells step and exact loss, follows the person's cadence, and on a notice saves and stops at once,
so that no step is lost. Without vl-agent it works alone.

Standard library and torch only: this package enters the training process.
"""

from vl_agent.torch.checkpointer import Checkpointer, Stateful

__all__ = ["Checkpointer", "Stateful"]
