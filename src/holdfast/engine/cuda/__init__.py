"""What cuDNN has not, on a GPU: variants and ragged rows. ``sigmoid`` and ``exponential`` are one step of a cell in
Triton, ``pointwise`` what they share, ``layer`` the steps and the products, ``function`` the node of autograd's graph.

Only `backend.choose` sends calls here, and only where the package triton can be imported: nothing else imports this.
"""
