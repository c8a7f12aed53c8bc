"""A plain script with the Trainer of transformers and the callback, started by the tests in several processes.

The second training finds the run of the first and must be refused.

Usage: python plain_trainer.py BASE OUT
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    import spectra
    from tests.training.monitor.test_callback import plain

    for _ in range(2):
        callback = spectra.SpectraCallback(every=2)
        plain(Path(sys.argv[1]), Path(sys.argv[2]), [callback], max_steps=3, gradient_accumulation_steps=2).train()
        print("trained", flush=True)
