"""Every order of every request of a few publishers, with faults, on models of what servers do.

`replay` runs a verb of a real store, with a real driver, against a script of answers, and finds out which request it
sends next. `scheduler` tries all orders in which the requests of several verbs can take effect, with every fault at
every one of them; `properties` says what must hold. `s3_model` and `gcs_model` are the servers.
"""
