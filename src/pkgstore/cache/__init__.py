"""A cache of blobs in a folder of this host, in front of a medium that is farther away.

`pkgstore.cache.folder` has the entries, and fills them; `pkgstore.cache.room` keeps them within their bound and makes
the processes of a host take turns; `pkgstore.cache.reading` reads them; `pkgstore.cache.absent` remembers, in one
process, what was not there.
"""
