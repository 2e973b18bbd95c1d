"""Encryption at rest: what a medium is given is ciphertext, and its plaintext is known to who holds the keys.

`segments` is the format, `keyring` the keys, `sealing` and `reading` the way in and out, and `driver` a driver over
that of the medium, by which the store notices nothing of all this.
"""
