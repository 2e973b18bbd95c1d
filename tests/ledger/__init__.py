"""Every order of every driver call of a few writers of a ledger, with faults at every one of them.

`medium` is what a driver's verbs do, as a function of values; `replay` runs a real `Ledger` against a script of what
its calls came to, and finds out which it makes next; `schedules` tries every order, and says what must hold.
"""
